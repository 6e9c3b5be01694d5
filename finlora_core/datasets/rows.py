"""What a row must hold in each of the three forms; other keys are allowed and ignored."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finlora_core.runs.config import PromptFormat

Row = Mapping[str, Any]

ROLES = ("system", "user", "assistant", "tool")

PROMPT = "[INST] {instruction} [/INST]"
"""Around FinLoRA's `context`."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")
"""JSON can spell it, UTF-8 and so every tokenizer cannot."""


def form_of(row: object) -> PromptFormat:
    """By its keys. FinLoRA's when they are no other's, so that the fault says what is missing."""
    keys = row.keys() if isinstance(row, dict) else ()
    if "messages" in keys:
        return PromptFormat.CHAT
    return PromptFormat.ALPACA if "instruction" in keys else PromptFormat.INSTRUCTION


def fault_of(row: object, form: PromptFormat) -> str | None:
    """What is wrong with it, in words; None when it can be trained on."""
    if not isinstance(row, dict):
        return "not a JSON object"
    return _FAULTS[form](row)


def texts_of(row: Row, form: PromptFormat) -> str:
    """All that the row says, one text after the other: what a tokenizer must give back."""
    if form is PromptFormat.CHAT:
        return "".join(message["content"] for message in row["messages"])
    return "".join(row.get(field) or "" for field in _TEXTS[form])


@dataclass(frozen=True)
class Turn:
    """A piece of a row as the model sees it, without what surrounds a chat's messages."""

    role: str
    text: str
    is_trained: bool
    """Whether the model learns to say it; else it is given."""


def turns_of(row: Row, form: PromptFormat) -> Sequence[Turn]:
    """A sound row, as it is rendered; the base model's template puts its marks around a chat's
    messages, and Axolotl's alpaca prompt its sentences around an instruction."""
    if form is PromptFormat.CHAT:
        return [Turn(m["role"], m["content"], m["role"] == "assistant") for m in row["messages"]]
    if form is PromptFormat.ALPACA:
        given = ("instruction", "input") if row.get("input") else ("instruction",)
        return [
            *(Turn(key, row[key], False) for key in given),
            Turn("output", row["output"], True),
        ]
    prompt = PROMPT.format(instruction=row["context"])
    return [Turn("context", prompt, False), Turn("target", row["target"], True)]


def _finlora(row: Row) -> str | None:
    return _text_fault(row, "context") or _text_fault(row, "target")


def _alpaca(row: Row) -> str | None:
    fault = _text_fault(row, "instruction") or _text_fault(row, "output")
    return fault or (_text_fault(row, "input") if row.get("input") is not None else None)


def _chat(row: Row) -> str | None:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        return "'messages' must be there and be a list of messages"
    for number, message in enumerate(messages, start=1):
        if fault := _message_fault(message, is_first=number == 1):
            return f"message {number}: {fault}"
    if not any(message["role"] == "assistant" for message in messages):
        return "no message of the assistant: there would be nothing to learn"
    return None


def _message_fault(message: object, *, is_first: bool) -> str | None:
    if not isinstance(message, dict):
        return "not a JSON object"
    role = message.get("role")
    if role not in ROLES:
        return f"'role' must be one of {', '.join(ROLES)}"
    if role == "system" and not is_first:
        return "only the first message can be the system's"
    return _text_fault(message, "content")


def _text_fault(row: Row, field: str) -> str | None:
    text = row.get(field)
    if not isinstance(text, str):
        return f"{field!r} must be there and be a string"
    if _SURROGATE.search(text):
        return f"{field!r} holds half of a character (\\ud800 …)"
    return None


_FAULTS: Mapping[PromptFormat, Callable[[Row], str | None]] = {
    PromptFormat.INSTRUCTION: _finlora,
    PromptFormat.ALPACA: _alpaca,
    PromptFormat.CHAT: _chat,
}

_TEXTS = {
    PromptFormat.INSTRUCTION: ("context", "target"),
    PromptFormat.ALPACA: ("instruction", "input", "output"),
}
