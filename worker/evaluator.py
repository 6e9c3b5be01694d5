"""Answers an errand's questions: `python -m worker.evaluator`, in an attempt's environment.

One base model is in memory at a time, with all the adapters that were trained on it in those
bits, and do not change the base itself. Answers are greedy, so the same question has the same
answer.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel

from finlora_core.runs.config import PromptFormat
from finlora_core.training.diagnose import FailureCode
from finlora_core.training.files import ATTEMPT_DIR, AttemptFiles
from worker.answering import Texts, Tokens, answer, greedy
from worker.errand import Answer, Completed, Errand, Meaning, Questions
from worker.loading import Prompts, alpaca, count_quantized, load_base, load_tokenizer
from worker.progress import Progress
from worker.tail import write_json


class Refused(Exception):
    """The errand cannot be done, for a reason that has a code of its own."""

    def __init__(self, code: FailureCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Scribe:
    """Writes answers and progress as they come."""

    def __init__(self, files: AttemptFiles, answers: int) -> None:
        self._progress = Progress(files, answers)
        self._file = files.answers.open("a")
        self.free_text: dict[tuple[int, int], dict[int, str]] = {}
        """By model and set: the answers that are compared by what they mean."""

    def write(self, answers: Sequence[Answer]) -> None:
        self._file.writelines(f"{answer.model_dump_json()}\n" for answer in answers)
        self._file.flush()
        self._progress.advance(len(answers))

    def keep(self, model: int, set: int, texts: Sequence[tuple[int, str | None]]) -> None:
        rows = self.free_text.setdefault((model, set), {})
        rows.update({row: text or "" for row, text in texts})


def run(errand: Errand, scribe: Scribe) -> Completed:
    """Raises `Refused`, and what transformers, PEFT and torch raise."""
    _answer_all(errand, scribe)
    return Completed(answers=errand.answers, meanings=tuple(_compare(errand, scribe.free_text)))


def _answer_all(errand: Errand, scribe: Scribe) -> None:
    for bits, numbers in errand.by_base():
        model = load_base(errand.base, bits, errand.hardware)
        require_bits(model, bits)
        for number in numbers:
            adapter = errand.models[number].adapter
            if adapter is not None:
                model = _with_adapter(model, adapter, str(number))
            prompts = Prompts(load_tokenizer(errand.base, adapter))
            for place, questions in enumerate(errand.sets):
                print(f"model {number + 1} of {len(errand.models)}, set {place + 1}", flush=True)
                for texts in _answers(model, prompts, questions, errand.batch_size):
                    scribe.write([_answer(number, place, *text) for text in texts])
                    if questions.free_text is not None:
                        scribe.keep(number, place, texts)


def _answers(
    model: Any, prompts: Prompts, questions: Questions, batch_size: int
) -> Iterator[Texts]:
    is_chat = questions.form is PromptFormat.CHAT
    config = greedy(model, prompts, tokens=questions.max_new_tokens, is_chat=is_chat)
    ids = [encode(prompts, given, questions.form) for given in questions.given]
    return answer(model, prompts, config, ids, batch_size)


def _compare(
    errand: Errand, free_text: Mapping[tuple[int, int], Mapping[int, str]]
) -> Iterator[Meaning]:
    """By BERTScore, where a model for it is at hand."""
    if not free_text:
        return
    from worker.bert_score import bert_scores, find_scorer  # free text alone needs it

    scorer = find_scorer(errand.scorers)
    if scorer is None:
        print("no BERTScore: none of its models is at hand", flush=True)
        return
    for (model, place), rows in free_text.items():
        print(f"BERTScore of model {model + 1}, set {place + 1}, by {scorer.name}", flush=True)
        outputs = [rows[row] for row in sorted(rows)]
        targets = errand.sets[place].free_text or ()
        scores = bert_scores(scorer, outputs, targets, device=errand.hardware.value)
        yield Meaning(model=model, set=place, scorer=scorer.name, scores=tuple(scores))


def encode(prompts: Prompts, given: Sequence[tuple[str, str]], form: PromptFormat) -> Tokens:
    """Raises `Refused`."""
    match form:
        case PromptFormat.INSTRUCTION:
            return prompts.of_text(given[0][1])
        case PromptFormat.ALPACA:
            return prompts.of_text(alpaca(*(text for _, text in given)))
        case PromptFormat.CHAT:
            return _encode_chat(prompts, given)


def _encode_chat(prompts: Prompts, given: Sequence[tuple[str, str]]) -> Tokens:
    if not prompts.tokenizer.chat_template:
        raise Refused(FailureCode.NO_CHAT_TEMPLATE, "the rows hold messages")
    return prompts.of_chat([{"role": role, "content": text} for role, text in given])


def _with_adapter(model: Any, adapter: Path, name: str) -> Any:
    """On the same base as those before it."""
    if isinstance(model, PeftModel):
        model.load_adapter(adapter, adapter_name=name)
    else:
        model = PeftModel.from_pretrained(model, adapter, adapter_name=name)
    model.set_adapter(name)
    return model.eval()


def require_bits(model: Any, bits: int | None) -> None:
    """Raises `Refused`."""
    if bits is not None and not count_quantized(model)[f"{bits}bit"]:
        raise Refused(FailureCode.QUANTIZATION_NOT_APPLIED, f"{bits} bits")


def _answer(model: int, set: int, row: int, text: str | None) -> Answer:
    return Answer(model=model, set=set, row=row, text=text or "", too_long=text is None)


def main() -> None:
    files = AttemptFiles(Path(os.environ[ATTEMPT_DIR]))
    errand = Errand.model_validate_json(files.errand.read_text())
    try:
        completed = run(errand, Scribe(files, errand.answers))
    except Refused as refused:
        files.failure.write_text(json.dumps({"code": refused.code, "detail": str(refused)}))
        sys.exit(1)
    write_json(files.completed, completed.model_dump())


if __name__ == "__main__":
    main()
