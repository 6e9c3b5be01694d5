"""Prompts of tokens in, greedy answers out, many at once: after a training and amid one.

What all the prompts of a set begin with, the instruction of its task, is read once.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer

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
    beginning = Beginning(model, [ids[n] for n in fitting])
    for start in range(0, len(fitting), batch_size):
        batch = fitting[start : start + batch_size]
        texts = _generate(model, prompts, config, [ids[n] for n in batch], beginning)
        yield list(zip(batch, texts, strict=True))


class Beginning:
    """The first tokens of all the prompts of a set, in the model's cache.

    None of a model that forgets what is far behind: its cache holds less than was read.
    """

    def __init__(self, model: Any, prompts: Sequence[Tokens]) -> None:
        self._cache = DynamicCache(config=model.config.get_text_config())
        remembers = all(type(layer) is DynamicLayer for layer in self._cache.layers)
        self.length = _common(prompts) if remembers and len(prompts) > 1 else 0
        if self.length:
            ids = torch.tensor([prompts[0][: self.length]], device=model.device)
            with torch.no_grad():
                model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)

    def cache_for(self, rows: int) -> DynamicCache | None:
        if not self.length:
            return None
        cache = deepcopy(self._cache)
        cache.batch_repeat_interleave(rows)
        return cache


def _common(prompts: Sequence[Tokens]) -> int:
    """How many tokens all begin with; of each at least the last is left to be read for itself."""
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _generate(
    model: Any,
    prompts: Prompts,
    config: GenerationConfig,
    batch: Sequence[Tokens],
    beginning: Beginning,
) -> Sequence[str]:
    width, begun = max(map(len, batch)), beginning.length
    fill = [width - len(ids) for ids in batch]
    rows = [
        [*ids[:begun], *[prompts.padding] * n, *ids[begun:]]
        for ids, n in zip(batch, fill, strict=True)
    ]
    mask = [[1] * begun + [0] * n + [1] * (width - begun - n) for n in fill]
    device = model.device
    made = model.generate(
        input_ids=torch.tensor(rows, device=device),
        attention_mask=torch.tensor(mask, device=device),
        past_key_values=beginning.cache_for(len(batch)),
        generation_config=config,
    )
    return [_text(prompts, row[width:], config.eos_token_id) for row in made.tolist()]


def _text(prompts: Prompts, ids: Sequence[int], ends: Sequence[int]) -> str:
    end = next((n for n, id in enumerate(ids) if id in ends), len(ids))
    return prompts.text_of(ids[:end])
