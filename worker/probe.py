"""Does the adapter change what the model says? Measured while the model is in memory.

The same few rows with the adapter on and off, and what that does to the logits. A loss that
falls does not show it: what was trained may not be what was saved, or may be switched off.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import kl_div, log_softmax

from worker.aside import set_training_aside

ROWS = 4
TOKENS = 256
"""Of each row at most: with a vocabulary of 128 k that is 131 MB of logits, twice."""


def rows_of(dataset: Any) -> Sequence[Sequence[int]]:
    """The first rows of a tokenized dataset, cut short."""
    count = min(ROWS, len(dataset))
    rows = [list(dataset[index]["input_ids"])[:TOKENS] for index in range(count)]
    return [row for row in rows if row]


def probe(model: Any, rows: Sequence[Sequence[int]]) -> dict[str, float]:
    """How far the logits of a PEFT model are from those of its base, over all tokens of `rows`.

    KL is of the adapted distribution from the base's, in nats a token. Leaves the model's mode
    and the random state as they were. Every process of a distributed training must call it,
    with the same rows: where weights are spread, each forward pass gathers them.
    """
    device = next(model.parameters()).device
    total, largest, kl, agreed, tokens, values = 0.0, 0.0, 0.0, 0, 0, 0
    with set_training_aside(model):
        for row in rows:
            ids = torch.tensor([row], device=device)
            with_adapter = _logits(model, ids)
            with model.disable_adapter():
                without = _logits(model, ids)
            difference = (with_adapter - without).abs()
            total += difference.sum(dtype=torch.float64).item()
            # not Python's max(), for which NaN is never the largest
            largest = torch.maximum(torch.tensor(largest), difference.max().cpu()).item()
            values += difference.numel()
            ours, base = log_softmax(with_adapter, -1), log_softmax(without, -1)
            kl += kl_div(base, ours, reduction="sum", log_target=True).item()
            agreed += int((with_adapter.argmax(-1) == without.argmax(-1)).sum())
            tokens += len(row)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "max_abs_difference": largest,
        "mean_abs_difference": total / max(1, values),
        "kl": kl / max(1, tokens),
        "top1_agreement": agreed / max(1, tokens),
    }


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """In float32, of one row: (tokens, vocabulary)."""
    logits: torch.Tensor = model(
        input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
    ).logits
    return logits[0].float()
