"""Prompts of tokens in, greedy answers out, many at once: after a training and amid one."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from worker.loading import Prompts

Tokens = Sequence[int]
Texts = Sequence[tuple[int, str | None]]
"""Number of a prompt and its answer; None where the prompt is too long for the model."""


def greedy(model: Any, prompts: Prompts, *, tokens: int, is_chat: bool) -> GenerationConfig:
    """All of it said: what is not would come from the base model's generation_config.json."""
    return GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=prompts.ends(model, is_chat=is_chat),
        pad_token_id=prompts.padding,
    )


def answer(
    model: Any, prompts: Prompts, config: GenerationConfig, ids: Sequence[Tokens], batch_size: int
) -> Iterator[Texts]:
    """Batch by batch, the longest prompts first: what does not fit into the memory shows at
    once."""
    context: int = model.config.get_text_config().max_position_embeddings
    longest = context - config.max_new_tokens
    if too_long := [n for n, prompt in enumerate(ids) if len(prompt) > longest]:
        yield [(n, None) for n in too_long]
    fitting = [n for n, prompt in enumerate(ids) if len(prompt) <= longest]
    fitting.sort(key=lambda n: len(ids[n]), reverse=True)
    for start in range(0, len(fitting), batch_size):
        batch = fitting[start : start + batch_size]
        texts = _generate(model, prompts, config, [ids[n] for n in batch])
        yield list(zip(batch, texts, strict=True))


def _generate(
    model: Any, prompts: Prompts, config: GenerationConfig, batch: Sequence[Tokens]
) -> Sequence[str]:
    width = max(map(len, batch))
    rows = [[prompts.padding] * (width - len(ids)) + list(ids) for ids in batch]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in batch]
    device = model.device
    made = model.generate(
        input_ids=torch.tensor(rows, device=device),
        attention_mask=torch.tensor(mask, device=device),
        generation_config=config,
    )
    return [_text(prompts, row[width:], config.eos_token_id) for row in made.tolist()]


def _text(prompts: Prompts, ids: Sequence[int], ends: Sequence[int]) -> str:
    end = next((n for n, id in enumerate(ids) if id in ends), len(ids))
    return prompts.text_of(ids[:end])
