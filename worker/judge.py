"""Inside the training process: how well does the adapter do its task by now?

At each step at which the schedule saves, the rows that Axolotl keeps out of training are answered
and judged, before the checkpoint is written: it holds what is known by then, the weights of the
best step included. Whoever goes on from it needs nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finlora_core.evaluation.metrics import judge
from finlora_core.evaluation.sets import drawn
from finlora_core.evaluation.summary import fit, summarise
from finlora_core.evaluation.tasks import Task
from finlora_core.training.best import (
    MOST_ROWS,
    Judgement,
    best,
    is_due,
    is_out_of_patience,
    judgements,
)
from finlora_core.training.files import AttemptFiles
from worker.answering import Tokens, answer, greedy
from worker.aside import set_training_aside
from worker.loading import Prompts
from worker.processes import is_first_process, of_all_processes, of_first_process, own_place
from worker.reporter import Reporter

WEIGHTS = "adapter_model.safetensors"
BEST_WEIGHTS = "best_adapter.safetensors"
"""In the checkpoint of another step than the best one."""

UNTRAINED = -100
"""What Axolotl labels the tokens with that the model is given, and does not learn to say."""

ROWS_AT_ONCE = 64

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Question:
    prompt: Tokens
    target: str


@dataclass(frozen=True)
class Exam:
    """What is asked each time."""

    task: Task
    questions: Sequence[Question]
    is_chat: bool
    tokens_at_once: int

    @property
    def batch_size(self) -> int:
        """As many tokens as a training step may have at once: there is memory for those."""
        longest = max(len(one.prompt) for one in self.questions) + self.task.max_new_tokens
        return max(1, min(ROWS_AT_ONCE, self.tokens_at_once // longest))


def make_exam(
    task: Task, rows: Any, prompts: Prompts, *, seed: int, is_chat: bool, tokens_at_once: int
) -> Exam:
    """`rows` are those that are not trained on, tokenized, with labels: what is decoded from them
    cannot be other rows than these.

    Raises `InvalidDataset` and `WrongLabels` when there is nothing in them to be judged.
    """
    questions = [one for row in rows if (one := _question(row, prompts)) is not None]
    targets = ((number, one.target) for number, one in enumerate(questions, start=1))
    fitted = fit(task, targets, shown_as="what is kept out of training")
    chosen = [questions[n] for n in sorted(drawn(len(questions), MOST_ROWS, seed))]
    return Exam(fitted, chosen, is_chat, tokens_at_once)


def _question(row: Mapping[str, Sequence[int]], prompts: Prompts) -> Question | None:
    """The last stretch of what the model learns to say is the answer, all before it is given."""
    ids, labels = row["input_ids"], row["labels"]
    end = len(labels)
    while end and labels[end - 1] == UNTRAINED:
        end -= 1
    start = end
    while start and labels[start - 1] != UNTRAINED:
        start -= 1
    return Question(list(ids[:start]), prompts.text_of(ids[start:end])) if start else None


class Judge(TrainerCallback):  # type: ignore[misc]
    """Must be asked before the callback that saves by time: what it sees is due by steps."""

    def __init__(
        self,
        files: AttemptFiles,
        exam: Exam,
        prompts: Prompts,
        *,
        patience: int | None,
        resumed_from: str | None,
        reporter: Reporter,
    ) -> None:
        self._files = files
        self._exam = exam
        self._prompts = prompts
        self._patience = patience
        self._resumed_from = resumed_from
        self._reporter = reporter
        self._best_weights: Weights = {}
        self.history: list[dict[str, Any]] = []
        """The trainer's, of the attempts before too."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.history = state.log_history
        if self._resumed_from and (top := best(self._made())) is not None:
            name = WEIGHTS if top.step == state.global_step else BEST_WEIGHTS
            self._best_weights = load_file(Path(self._resumed_from) / name)

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any,
        **_: Any,
    ) -> None:
        """Of a step at which the training was stopped before it was judged."""
        self._judge_if_due(state, model)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any,
        **_: Any,
    ) -> None:
        self._judge_if_due(state, model)
        if is_out_of_patience(self._made(), self._patience):
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        top = best(self._made())
        if top is not None and top.step != state.global_step and is_first_process():
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            save_file(dict(self._best_weights), folder / BEST_WEIGHTS, metadata={"format": "pt"})

    def take_best(self, model: Any) -> Judgement:
        """The model is then as it was at that step."""
        top = best(self._made())
        if top is None:
            raise RuntimeError("no step was judged")
        with torch.no_grad():
            for name, weight in _weights(model).items():
                weight.copy_(self._best_weights[name])
        return top

    def _made(self) -> Sequence[Judgement]:
        return judgements(self.history, self._exam.task.metric)

    def _judge_if_due(self, state: TrainerState, model: Any) -> None:
        step, made = state.global_step, self._made()
        due = is_due(step, save_steps=state.save_steps, max_steps=state.max_steps)
        if not due or any(judgement.step == step for judgement in made):
            return
        judgement = self._judgement(state, model)
        if judgement is None:
            return
        self.history.append({**judgement.values, "epoch": state.epoch, "step": step})
        self._reporter.record(judgement.values, state)
        if best(self._made()) == judgement:
            weights = _weights(model).items()
            self._best_weights = {name: weight.cpu().clone() for name, weight in weights}

    def _judgement(self, state: TrainerState, model: Any) -> Judgement | None:
        """None when somebody has asked to stop meanwhile. The last step is judged all the same:
        there is no going on from it."""
        may_stop = state.global_step < state.max_steps
        if may_stop and of_first_process(self._files.stop_requested.exists())[0]:
            return None
        shares = of_all_processes(self._answers(state, model, may_stop))
        if any(share is None for share in shares):
            return None
        texts = {number: text for share in shares for number, text in share.items()}
        return self._judge(state.global_step, [texts[n] for n in range(len(texts))])

    def _answers(
        self, state: TrainerState, model: Any, may_stop: bool
    ) -> Mapping[int, str] | None:
        """To this process's share of the questions, by number."""
        place, processes = own_place()
        numbers = range(place, len(self._exam.questions), processes)
        ids = [self._exam.questions[number].prompt for number in numbers]
        answers: dict[int, str] = {}
        with set_training_aside(model):
            config = greedy(
                model,
                self._prompts,
                tokens=self._exam.task.max_new_tokens,
                is_chat=self._exam.is_chat,
            )
            for texts in answer(model, self._prompts, config, ids, self._exam.batch_size):
                answers |= {numbers[n]: text or "" for n, text in texts}
                self._reporter.heard(len(texts), state)
                if may_stop and self._files.stop_requested.exists():
                    return None
        return answers

    def _judge(self, step: int, texts: Sequence[str]) -> Judgement:
        task, targets = self._exam.task, [one.target for one in self._exam.questions]
        judged = [judge(task, *pair) for pair in zip(texts, targets, strict=True)]
        value = summarise(task, judged, targets)["value"]
        return Judgement(step=step, metric=task.metric, value=value, rows=len(targets))


def _weights(model: Any) -> Weights:
    """The adapter's own tensors, not copies of them."""
    weights: Weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return weights
