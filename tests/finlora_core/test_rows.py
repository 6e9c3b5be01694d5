"""What a row must hold in each form, and what is said of one that does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from finlora_core.datasets.check import check_dataset
from finlora_core.datasets.rows import fault_of, texts_of
from finlora_core.errors import InvalidDataset
from finlora_core.runs.config import PromptFormat

USER = {"role": "user", "content": "Profit?"}
ASSISTANT = {"role": "assistant", "content": "rose"}
GOOD: dict[PromptFormat, list[dict[str, Any]]] = {
    PromptFormat.INSTRUCTION: [{"context": "a", "target": "b"}, {"context": "", "target": ""}],
    PromptFormat.ALPACA: [
        {"instruction": "a", "output": "b"},
        {"instruction": "a", "input": "i", "output": "b", "other": 1},
        {"instruction": "a", "input": None, "output": "b"},
    ],
    PromptFormat.CHAT: [
        {"messages": [USER, ASSISTANT]},
        {"messages": [{"role": "system", "content": "s"}, USER, ASSISTANT, USER, ASSISTANT]},
    ],
}
BAD: list[tuple[PromptFormat, object, str]] = [
    (PromptFormat.INSTRUCTION, [], "not a JSON object"),
    (PromptFormat.INSTRUCTION, {"target": "b"}, "'context' must be there"),
    (PromptFormat.INSTRUCTION, {"context": 1, "target": "b"}, "'context' must be"),
    (PromptFormat.INSTRUCTION, {"context": "\ud800", "target": "b"}, "half of a character"),
    (PromptFormat.ALPACA, {"instruction": "a"}, "'output' must be there"),
    (PromptFormat.ALPACA, {"instruction": "a", "input": 3, "output": "b"}, "'input' must be"),
    (PromptFormat.CHAT, {"messages": []}, "'messages' must be there"),
    (PromptFormat.CHAT, {"messages": "hi"}, "'messages' must be there"),
    (PromptFormat.CHAT, {"messages": [USER]}, "no message of the assistant"),
    (PromptFormat.CHAT, {"messages": [USER, "hi"]}, "message 2: not a JSON object"),
    (
        PromptFormat.CHAT,
        {"messages": [{"role": "bot", "content": ""}]},
        "message 1: 'role' must be",
    ),
    (
        PromptFormat.CHAT,
        {"messages": [USER, {"role": "system", "content": "s"}, ASSISTANT]},
        "message 2: only the first message can be the system's",
    ),
    (PromptFormat.CHAT, {"messages": [USER, {"role": "assistant"}]}, "message 2: 'content' must"),
]


@pytest.mark.parametrize("form", PromptFormat)
def test_a_row_of_its_form_has_no_fault(form: PromptFormat) -> None:
    assert [fault_of(row, form) for row in GOOD[form]] == [None] * len(GOOD[form])


@pytest.mark.parametrize(("form", "row", "said"), BAD, ids=lambda value: str(value)[:40])
def test_a_fault_says_which_key_and_what_it_must_be(
    form: PromptFormat, row: object, said: str
) -> None:
    assert said in (fault_of(row, form) or "")


def test_rows_of_another_form_are_recognised(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(GOOD[PromptFormat.CHAT][0]) + "\n")
    with pytest.raises(InvalidDataset, match=r'x\.jsonl, line 1: .* set "prompt_format": "chat"'):
        check_dataset(file, PromptFormat.INSTRUCTION, shown_as="x.jsonl")


def test_all_that_a_row_says_is_what_a_tokenizer_must_give_back() -> None:
    chat = {"messages": [USER, ASSISTANT]}
    assert texts_of(chat, PromptFormat.CHAT) == "Profit?rose"
    alpaca = {"instruction": "a", "input": None, "output": "b"}
    assert texts_of(alpaca, PromptFormat.ALPACA) == "ab"
