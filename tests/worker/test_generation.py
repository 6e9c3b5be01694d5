"""What the playground makes of tokens; tests/api/openai/test_completions.py asks whole models."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from finlora_core.playground import Message, Model, Question
from finlora_core.runs.config import PromptFormat
from finlora_core.training.axolotl import Hardware
from tests.support import BASE_MODEL
from worker.generation import Loaded, Teller, Unanswerable

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_base / BASE_MODEL)


@pytest.fixture(scope="module")
def loaded(tiny_base: Path) -> Loaded:
    return Loaded(Model(base=tiny_base / BASE_MODEL), Hardware.CPU)


def pieces_of(tokenizer: Any, text: str, *stop: str) -> list[str]:
    told: list[str] = []
    teller = Teller(tokenizer, stop, told.append)
    teller.put(torch.tensor([[1, 2, 3]]))  # the prompt
    for id in tokenizer.encode(text, add_special_tokens=False):
        if teller.full:
            break
        teller.put(torch.tensor([id]))
    teller.end()
    return told


@pytest.mark.parametrize("text", ["Profit rose by 5 %.", "naïve 利益 🎉🎉 e\u0301", " \n\n x"])
def test_the_pieces_are_the_text(tokenizer: Any, text: str) -> None:
    pieces = pieces_of(tokenizer, text)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_nothing_of_a_stop_string_is_told(tokenizer: Any) -> None:
    rng = random.Random(5)  # noqa: S311  # repeatable, not secret
    for _ in range(200):
        text = "".join(rng.choices("ab \n", k=20))
        stop = ["".join(rng.choices("ab \n", k=rng.randint(1, 4))) for _ in range(2)]
        cut = min((text.index(each) for each in stop if each in text), default=len(text))
        assert "".join(pieces_of(tokenizer, text, *stop)) == text[:cut], (text, stop)


def shown(loaded: Loaded, prompt: Any, form: PromptFormat | None = None) -> str:
    question = Question(model=loaded.wanted, prompt=prompt, form=form)
    return str(loaded.tokenizer.decode(loaded.encode(question)))


def test_a_prompt_is_put_as_the_rows_of_the_run_were(loaded: Loaded) -> None:
    begin = "<|begin_of_text|>"
    assert shown(loaded, "Up?") == f"{begin}Up?"
    assert shown(loaded, "Up?", PromptFormat.INSTRUCTION) == f"{begin}[INST] Up? [/INST]"
    alpaca = shown(loaded, "Up?", PromptFormat.ALPACA)
    assert alpaca.endswith("### Instruction:\nUp?\n\n### Response:\n")
    chat = shown(loaded, (Message(role="user", content="Up?"),))
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert chat == begin + header.format("user") + "Up?<|eot_id|>" + header.format("assistant")


def test_a_chat_ends_with_its_turn(loaded: Loaded) -> None:
    names = loaded.tokenizer.convert_ids_to_tokens
    chat = Question(model=loaded.wanted, prompt=(Message(role="user", content="Up?"),))
    raw = Question(model=loaded.wanted, prompt="Up?")
    assert names(loaded.ends_of(raw)) == ["<|end_of_text|>"]
    assert set(names(loaded.ends_of(chat))) == {"<|end_of_text|>", "<|eot_id|>"}


def test_what_does_not_fit_into_the_context_is_refused(loaded: Loaded) -> None:
    text = "word " * 5000
    for question, key in (
        (Question(model=loaded.wanted, prompt=text), "prompt"),
        (Question(model=loaded.wanted, prompt=text, form=PromptFormat.ALPACA), "messages"),
        (Question(model=loaded.wanted, prompt="Up?", max_tokens=4096), "max_tokens"),
    ):
        with pytest.raises(Unanswerable, match="context of 4096") as refused:
            loaded.encode(question)
        assert refused.value.key == key
