"""How an adapter is judged amid its training, on a tiny model in this process."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finlora_core.errors import WrongLabels
from finlora_core.evaluation.tasks import Metric, get_task, task_or_metric
from finlora_core.training.best import MOST_ROWS, Judgement
from finlora_core.training.files import AttemptFiles
from tests.support import BASE_MODEL
from worker.judge import BEST_WEIGHTS, UNTRAINED, WEIGHTS, Exam, Judge, make_exam
from worker.loading import Prompts, load_tokenizer
from worker.reporter import Reporter

pytestmark = pytest.mark.training

SAVE_STEPS, MAX_STEPS = 2, 8
ROWS = 2

Row = dict[str, list[int]]


class Notes(Reporter):
    """Writes no files."""

    def __init__(self) -> None:
        self.recorded: list[tuple[int, Mapping[str, float]]] = []
        self.answers = 0
        self.on_answers: Callable[[], None] = lambda: None

    def heard(self, answers: int, state: Any) -> None:
        self.answers += answers
        self.on_answers()

    def record(self, values: Mapping[str, Any], state: Any) -> None:
        self.recorded.append((state.global_step, values))


@pytest.fixture(scope="module")
def prompts(tiny_base: Path) -> Prompts:
    return Prompts(load_tokenizer(tiny_base / BASE_MODEL, None))


@pytest.fixture
def model(tiny_base: Path) -> Any:
    """As it is amid a training: with dropout, and gradients recomputed."""
    base = AutoModelForCausalLM.from_pretrained(tiny_base / BASE_MODEL, dtype=torch.float32)
    base.gradient_checkpointing_enable()
    base.enable_input_require_grads()
    base.config.use_cache = False
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    return get_peft_model(base, config).train()


def row(prompts: Prompts, prompt: str, target: str, *, after: str = "") -> Row:
    """As Axolotl tokenizes it; `after` is said to the model, not learnt."""
    given, answer = prompts.of_text(prompt), prompts.tokenizer.encode(target)[1:]
    answer = [*answer, prompts.tokenizer.eos_token_id]
    rest = prompts.tokenizer.encode(after)[1:] if after else []
    labels = [UNTRAINED] * len(given) + answer + [UNTRAINED] * len(rest)
    return {"input_ids": [*given, *answer, *rest], "labels": labels}


def asked(prompts: Prompts, rows: int) -> list[Row]:
    return [row(prompts, f"Profit {n}.", ("positive", "negative")[n % 2]) for n in range(rows)]


def exam(prompts: Prompts, task: str = "tfns", rows: list[Row] | None = None, **keys: Any) -> Exam:
    how: dict[str, Any] = {"seed": 1, "is_chat": False, "tokens_at_once": 64, **keys}
    return make_exam(task_or_metric(task), rows or asked(prompts, ROWS), prompts, **how)


def judge_of(
    tmp_path: Path, exam: Exam, prompts: Prompts, reporter: Notes | None = None, **keys: Any
) -> tuple[Judge, Any]:
    """A judge, and the trainer's state that it has seen at the beginning."""
    how = {"patience": None, "resumed_from": None, **keys}
    judge = Judge(AttemptFiles(tmp_path), exam, prompts, reporter=reporter or Notes(), **how)
    state = SimpleNamespace(
        global_step=0, save_steps=SAVE_STEPS, max_steps=MAX_STEPS, log_history=[], epoch=0.0
    )
    judge.on_train_begin(None, state, None)
    return judge, state


def step(judge: Judge, state: Any, model: Any, to: int) -> Any:
    state.global_step = to
    control = SimpleNamespace(should_training_stop=False)
    judge.on_step_end(None, state, control, model=model)
    return control


def say(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """The values that the next judgements come to."""
    left = iter(values)

    def made(self: Judge, step: int, texts: object) -> Judgement:
        return Judgement(step=step, metric=Metric.ACCURACY, value=next(left), rows=5)

    monkeypatch.setattr(Judge, "_answers", lambda *_: {})
    monkeypatch.setattr(Judge, "_judge", made)


def fill(model: Any, value: float) -> None:
    with torch.no_grad():
        for weight in get_peft_model_state_dict(model).values():
            weight.fill_(value)


def test_what_is_asked_are_the_rows_as_the_trainer_has_them(prompts: Prompts) -> None:
    first, last = row(prompts, "Well?", "Bad."), row(prompts, " And now?", "Good.")
    turns = {key: [*first[key], *last[key]] for key in first}
    rows = [row(prompts, "Profit rose.", "positive", after="\n"), turns]
    one, two = exam(prompts, "rouge_l", rows).questions
    assert (one.target, two.target) == ("positive", "Good.")
    assert one.prompt == prompts.of_text("Profit rose.")
    assert prompts.text_of(two.prompt) == "Well?Bad. And now?"


def test_at_most_so_many_rows_are_asked_and_the_same_ones_for_the_same_seed(
    prompts: Prompts,
) -> None:
    many = asked(prompts, MOST_ROWS + 50)
    first, again, other = (exam(prompts, rows=many, seed=seed) for seed in (1, 1, 2))
    assert len(first.questions) == MOST_ROWS
    assert first.questions == again.questions != other.questions


def test_a_metric_takes_its_labels_from_the_rows_and_a_task_must_fit_them(
    prompts: Prompts,
) -> None:
    assert exam(prompts, "accuracy").task.labels == ("positive", "negative")
    with pytest.raises(WrongLabels):
        exam(prompts, "headline")


def test_as_many_rows_are_answered_at_once_as_there_is_memory_for(prompts: Prompts) -> None:
    longest = len(prompts.of_text("Profit 0.")) + get_task("tfns").max_new_tokens
    assert exam(prompts, tokens_at_once=3 * longest).batch_size == 3
    assert exam(prompts, tokens_at_once=1).batch_size == 1


def test_a_judgement_leaves_no_trace_in_the_training(
    tmp_path: Path, prompts: Prompts, model: Any
) -> None:
    ids = torch.tensor([prompts.of_text("Profit rose to new heights.")])

    def two_steps(judged: bool) -> list[torch.Tensor]:
        torch.manual_seed(3)
        fill(model, 0.01)
        judge, state = judge_of(tmp_path, exam(prompts), prompts)
        optimizer = torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=0.1)
        for number in (1, 2):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if judged:
                step(judge, state, model, to=2 * number)
                assert len(judge.history) == number
        drawn = torch.rand(1)
        return [*(w.clone() for w in get_peft_model_state_dict(model).values()), drawn]

    modes = [module.training for module in model.modules()]
    plain, judged = two_steps(judged=False), two_steps(judged=True)
    assert all(map(torch.equal, plain, judged))
    assert [module.training for module in model.modules()] == modes
    assert model.config.use_cache is False


def test_each_save_that_is_due_by_steps_is_judged_once(
    tmp_path: Path, prompts: Prompts, model: Any
) -> None:
    notes = Notes()
    judge, state = judge_of(tmp_path, exam(prompts), prompts, notes)
    for number in (1, 2, 3, 4, 8):
        step(judge, state, model, to=number)
    judge.on_epoch_begin(None, state, None, model=model)
    assert [number for number, _ in notes.recorded] == [2, 4, 8]
    assert notes.recorded[0][1] == {"eval_accuracy": 0.0, "eval_rows": ROWS}
    assert notes.answers == 3 * ROWS
    assert [point["step"] for point in state.log_history] == [2, 4, 8]
    json.dumps(state.log_history)  # as the trainer does


def test_the_best_steps_weights_come_back_and_go_into_every_checkpoint_after_it(
    tmp_path: Path, prompts: Prompts, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, 0.2, 0.9, 0.9)
    judge, state = judge_of(tmp_path, exam(prompts), prompts)
    args = SimpleNamespace(output_dir=str(tmp_path))
    for number in (2, 4, 6):
        fill(model, number / 8)
        step(judge, state, model, to=number)
        (tmp_path / f"checkpoint-{number}").mkdir()
        judge.on_save(args, state, None)
    assert not list(tmp_path.glob(f"checkpoint-[24]/{BEST_WEIGHTS}"))
    kept = load_file(tmp_path / "checkpoint-6" / BEST_WEIGHTS)
    assert {float(weight.unique()) for weight in kept.values()} == {0.5}
    assert judge.take_best(model).step == 4
    assert all(torch.equal(w, kept[n]) for n, w in get_peft_model_state_dict(model).items())


@pytest.mark.parametrize(("at", "file"), [(4, WEIGHTS), (5, BEST_WEIGHTS)])
def test_whoever_goes_on_from_a_checkpoint_knows_the_best_step_before_it(
    tmp_path: Path,
    prompts: Prompts,
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    file: str,
) -> None:
    say(monkeypatch, 0.3)
    fill(model, 0.5)
    save_file(dict(get_peft_model_state_dict(model)), tmp_path / file)
    judge, state = judge_of(tmp_path, exam(prompts), prompts, resumed_from=str(tmp_path))
    made = {"eval_accuracy": 0.8, "eval_rows": 5, "step": 4}
    state.log_history, state.global_step = [made], at
    judge.on_train_begin(None, state, None)
    fill(model, 0.75)
    step(judge, state, model, to=6)
    assert judge.take_best(model).step == 4
    weights = get_peft_model_state_dict(model).values()
    assert {float(weight.unique()) for weight in weights} == {0.5}


def test_a_checkpoint_without_the_best_steps_weights_is_not_gone_on_from(
    tmp_path: Path, prompts: Prompts
) -> None:
    judge, state = judge_of(tmp_path, exam(prompts), prompts, resumed_from=str(tmp_path))
    state.log_history = [{"eval_accuracy": 0.8, "eval_rows": 5, "step": 4}]
    state.global_step = 6
    with pytest.raises(FileNotFoundError):
        judge.on_train_begin(None, state, None)


def test_a_training_stops_when_its_patience_is_at_an_end(
    tmp_path: Path, prompts: Prompts, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, 0.5, 0.4, 0.5)
    judge, state = judge_of(tmp_path, exam(prompts), prompts, patience=2)
    stops = [step(judge, state, model, to=n).should_training_stop for n in (2, 3, 4, 6)]
    assert stops == [False, False, False, True]


def test_whoever_asks_to_stop_waits_for_one_batch_at_most_and_the_step_is_judged_later(
    tmp_path: Path, prompts: Prompts, model: Any
) -> None:
    files, notes = AttemptFiles(tmp_path), Notes()
    judge, state = judge_of(tmp_path, exam(prompts, tokens_at_once=1), prompts, notes)
    notes.on_answers = files.stop_requested.touch
    step(judge, state, model, to=2)
    assert (notes.answers, notes.recorded) == (1, [])
    step(judge, state, model, to=4)
    assert notes.answers == 1
    files.stop_requested.unlink()
    notes.on_answers = lambda: None
    judge.on_epoch_begin(None, state, None, model=model)
    assert [number for number, _ in notes.recorded] == [4]


def test_the_last_step_is_judged_even_when_somebody_asks_to_stop(
    tmp_path: Path, prompts: Prompts, model: Any
) -> None:
    notes = Notes()
    judge, state = judge_of(tmp_path, exam(prompts), prompts, notes)
    AttemptFiles(tmp_path).stop_requested.touch()
    step(judge, state, model, to=MAX_STEPS)
    assert [number for number, _ in notes.recorded] == [MAX_STEPS]
