"""Many questions at once, and their common beginning read once: the same answers as one by one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

from tests.tiny_models import FAMILIES, SIZES
from worker.answering import Beginning, answer, greedy
from worker.loading import Prompts

pytestmark = pytest.mark.training

TOKENS = 6
RESTS = (
    "",
    " x",
    " Profit rose.",
    " The plant in Oulu was closed and 240 people lost their work.",
)
TOLD = "Say what this is: up, down or neither.\nText:"


def answers(model: Any, prompts: Prompts, ids: Sequence[list[int]], at_once: int) -> list[str]:
    config = greedy(model, prompts, tokens=TOKENS, is_chat=False)
    found = dict(one for texts in answer(model, prompts, config, ids, at_once) for one in texts)
    return [found[number] or "" for number in range(len(ids))]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_common_beginning_changes_no_answer(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    prompts = Prompts(AutoTokenizer.from_pretrained(tmp_path))
    ids = [prompts.of_text(TOLD + rest) for rest in RESTS]
    alone = [answers(model, prompts, [one], 1)[0] for one in ids]
    assert answers(model, prompts, ids, 3) == alone
    assert Beginning(model, ids).length == len(ids[0]) - 1
    assert len(set(alone)) > 1


def test_prompts_that_begin_differently_share_nothing(tmp_path: Path) -> None:
    FAMILIES["qwen"](tmp_path)  # has no token that every text begins with
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompts = Prompts(AutoTokenizer.from_pretrained(tmp_path))
    ids = [prompts.of_text(text) for text in ("Up", "Down", "Neither")]
    assert Beginning(model, ids).length == 0
    assert len(answers(model, prompts, ids, 2)) == 3


def test_of_a_model_that_forgets_nothing_is_kept() -> None:
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8, vocab_size=64))
    assert Beginning(model, [[1, 2, 3, 4], [1, 2, 3, 5]]).length == 0
