"""Is a difference real? Rows are resampled, always the same rows for both sides.

Scores and weights are those of `Judged`: a result is the sum of scores over the sum of weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
LEVEL = 0.95

CELLS = 4_000_000
"""Of a matrix of draws by rows: 32 MB of scores at once."""

POINTS = 100
"""A score of 1 is a hundred points."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A minus B, with its 95 % interval, between -1 and 1."""

    difference: float
    low: float
    high: float

    @property
    def better(self) -> Literal["A", "B"] | None:
        """A side is better when the whole interval is on its side of 0."""
        return "A" if self.low > 0 else "B" if self.high < 0 else None


@dataclass(frozen=True)
class McNemar:
    """Rows that one side alone got right, and how likely so uneven a split is by chance."""

    only_a: int
    only_b: int
    p_value: float


def bootstrap_interval(
    scores: Sequence[float], weights: Sequence[float], *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of one result: percentiles of `draws` resamplings of its rows.

    Raises `ValueError` without rows, or for a weight that is not above 0.
    """
    return _interval(_columns(scores, weights), draws=draws, seed=seed)


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    weights: Sequence[float],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """A's result minus B's on the same rows. Raises `ValueError` as `bootstrap_interval` does."""
    scores = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    columns = _columns(scores, weights)
    low, high = _interval(columns, draws=draws, seed=seed)
    score, weight = columns.sum(axis=0)
    return Difference(float(score / weight), low, high)


def mcnemar(a_right: Sequence[bool], b_right: Sequence[bool]) -> McNemar:
    """The exact test, two-sided."""
    # here, since importing it takes half a second that only a comparison needs
    from scipy.stats import binomtest

    a, b = np.asarray(a_right, dtype=bool), np.asarray(b_right, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    split = only_a + only_b
    return McNemar(only_a, only_b, float(binomtest(only_a, split).pvalue) if split else 1.0)


def verdict(result: Difference, *, rows: int, a: str = "A", b: str = "B") -> str:
    """In words."""
    match result.better:
        case "A":
            return f"{a} is better: {_in_points(result.difference, result.low, result.high)}"
        case "B":
            return f"{b} is better: {_in_points(-result.difference, -result.high, -result.low)}"
    return f"no difference can be shown with {rows} rows"


def _in_points(difference: float, low: float, high: float) -> str:
    points = [POINTS * value for value in (difference, low, high)]
    return "+{:.1f} points [{:.1f}, {:.1f}]".format(*points)


def _columns(scores: Sequence[float] | Floats, weights: Sequence[float]) -> Floats:
    """(rows, 2): score and weight."""
    columns = np.column_stack(
        [np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)]
    )
    if not len(columns):
        raise ValueError("there are no rows")
    if (columns[:, 1] <= 0).any():
        raise ValueError("a weight must be above 0")
    return columns


def _interval(columns: Floats, *, draws: int, seed: int) -> tuple[float, float]:
    """Of `draws` resamplings, a chunk of them at a time."""
    rows = len(columns)
    random = np.random.default_rng(seed)
    chunk = max(1, CELLS // rows)
    results = []
    for start in range(0, draws, chunk):
        drawn = random.integers(0, rows, size=(min(chunk, draws - start), rows), dtype=np.int32)
        sums = [column[drawn].sum(axis=1) for column in columns.T]
        results.append(sums[0] / sums[1])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(results), [tail, 1 - tail])
    return float(low), float(high)
