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


class Distance:
    """How far logits are from those of another model, over all tokens that were added.

    KL is of the first model's distribution from the other's, in nats a token.
    """

    def __init__(self) -> None:
        self._rows = self._tokens = self._agreed = self._values = 0
        self._total = self._largest = self._kl = 0.0

    def add(self, logits: torch.Tensor, others: torch.Tensor) -> None:
        """Of one row, both (tokens, vocabulary) in float32."""
        difference = (logits - others).abs()
        self._total += difference.sum(dtype=torch.float64).item()
        # not Python's max(), for which NaN is never the largest
        largest = torch.maximum(torch.tensor(self._largest), difference.max().cpu())
        self._largest = largest.item()
        self._values += difference.numel()
        ours, theirs = log_softmax(logits, -1), log_softmax(others, -1)
        self._kl += kl_div(theirs, ours, reduction="sum", log_target=True).item()
        self._agreed += int((logits.argmax(-1) == others.argmax(-1)).sum())
        self._tokens += len(logits)
        self._rows += 1

    def figures(self) -> dict[str, float]:
        return {
            "rows": self._rows,
            "tokens": self._tokens,
            "max_abs_difference": self._largest,
            "mean_abs_difference": self._total / max(1, self._values),
            "kl": self._kl / max(1, self._tokens),
            "top1_agreement": self._agreed / max(1, self._tokens),
        }


def probe(model: Any, rows: Sequence[Sequence[int]]) -> dict[str, float]:
    """How far the logits of a PEFT model are from those of its base.

    Leaves the model's mode and the random state as they were. Every process of a distributed
    training must call it, with the same rows: where weights are spread, each forward pass
    gathers them.
    """
    distance = Distance()
    with set_training_aside(model):
        for row in rows:
            with_adapter = logits_of(model, row)
            with model.disable_adapter():
                without = logits_of(model, row)
            distance.add(with_adapter, without)
    return distance.figures()


def logits_of(model: Any, row: Sequence[int]) -> torch.Tensor:
    """In float32: (tokens, vocabulary)."""
    ids = torch.tensor([row], device=next(model.parameters()).device)
    logits: torch.Tensor = model(
        input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
    ).logits
    return logits[0].float()
