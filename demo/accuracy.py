"""Counts how many rows of a sentiment file a base model, or base and adapter, answers rightly.

`python -m demo.accuracy --base DIR [--adapter DIR] --data FILE [--limit N]` loads the weights
with transformers and PEFT alone, as somebody who downloaded the adapter would, and prints one
JSON line `{"rows": …, "correct": …, "accuracy": …}`; accuracy is a share from 0 to 1.

What the model is asked is what Axolotl 0.19 trained it on. For FinLoRA's dataset type
(`field_instruction: context`, `format` and `no_input_format` "[INST] {instruction} [/INST]", no
system prompt) `prompt_strategies/alpaca_w_system.py` tokenizes prompt and answer apart and joins
the tokens:

    tokenizer("[INST] " + context + " [/INST]")   begins with BOS, where the tokenizer adds one
    tokenizer(target) without its BOS             no space and no newline comes between
    EOS

A context of FinLoRA's ends in "Answer: ", so the prompt ends in "Answer:", two spaces, "[/INST]".
Only answer and EOS carry a loss.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

LABELS = ("positive", "negative", "neutral")
BATCH_ROWS = 50
# The longest label takes a model of Llama's vocabulary two tokens; the rest is room for a space.
MAX_NEW_TOKENS = 6


@dataclass(frozen=True)
class Question:
    """A row of the file: the whole prompt, and the label that counts as right."""

    prompt: str
    target: str


@dataclass(frozen=True)
class Score:
    """What came of the questions; accuracy is correct / rows, 0 for no rows."""

    rows: int
    correct: int
    accuracy: float


def read_questions(data: Path, limit: int | None = None) -> list[Question]:
    """The first `limit` rows of a file in FinLoRA's form, all of them without a limit."""
    with data.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Question(f"[INST] {row['context']} [/INST]", row["target"]) for row in rows[:limit]]


def load(base: Path, adapter: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base in full precision, under the adapter if there is one, and the base's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    return model.eval(), tokenizer


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> Iterator[str]:
    """The greedy continuation of each prompt, in order, at most MAX_NEW_TOKENS tokens long."""
    for start in range(0, len(prompts), BATCH_ROWS):
        batch = list(prompts[start : start + BATCH_ROWS])
        inputs = tokenizer(batch, return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        asked = inputs["input_ids"].shape[1]
        yield from tokenizer.batch_decode(output[:, asked:], skip_special_tokens=True)


def first_label(answer: str) -> str | None:
    """The label that occurs first in the answer, in whatever case; None without any."""
    places = {label: answer.lower().find(label) for label in LABELS}
    found = [label for label in LABELS if places[label] >= 0]
    return min(found, key=places.__getitem__, default=None)


def score(questions: Sequence[Question], replies: Sequence[str]) -> Score:
    """Counts the replies whose first label is the question's target."""
    correct = sum(
        first_label(reply) == question.target
        for question, reply in zip(questions, replies, strict=True)
    )
    return Score(len(questions), correct, round(correct / max(1, len(questions)), 4))


def accuracy(base: Path, adapter: Path | None, data: Path, limit: int | None = None) -> Score:
    """Loads, asks and scores."""
    questions = read_questions(data, limit)
    model, tokenizer = load(base, adapter)
    prompts = [question.prompt for question in questions]
    return score(questions, list(answers(model, tokenizer, prompts)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.accuracy")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    wanted = parser.parse_args()
    print(json.dumps(asdict(accuracy(wanted.base, wanted.adapter, wanted.data, wanted.limit))))


if __name__ == "__main__":
    main()
