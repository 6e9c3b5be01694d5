"""Two models' answers to the same rows, held against each other. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finlora_core.errors import DifferentRows
from finlora_core.evaluation.outputs import Output
from finlora_core.evaluation.statistics import (
    Difference,
    McNemar,
    mcnemar,
    paired_bootstrap,
    verdict,
)
from finlora_core.evaluation.tasks import Metric

RIGHT_OR_WRONG = frozenset({Metric.ACCURACY, Metric.CHOICE, Metric.NUMERIC, Metric.CONTAINS})
"""Their scores are 0 or 1; of the others McNemar's test can say nothing."""


@dataclass(frozen=True)
class Changed:
    """A row that A and B have not the same score for."""

    line: int
    target: str
    a_output: str
    b_output: str
    a_score: float
    b_score: float


@dataclass(frozen=True)
class Compared:
    difference: Difference
    mcnemar: McNemar | None
    """None where scores are more than right and wrong."""
    rows: int
    changed: int

    @property
    def verdict(self) -> str:
        return verdict(self.difference, rows=self.rows)


def compare(metric: Metric, a: Sequence[Output], b: Sequence[Output]) -> Compared:
    """Raises `DifferentRows`, and `ValueError` without rows."""
    require_same_rows(a, b)
    ours, theirs = [row.score for row in a], [row.score for row in b]
    is_right = metric in RIGHT_OR_WRONG
    return Compared(
        difference=paired_bootstrap(ours, theirs, [row.weight for row in a]),
        mcnemar=mcnemar(list(map(bool, ours)), list(map(bool, theirs))) if is_right else None,
        rows=len(a),
        changed=sum(1 for _ in changed_rows(a, b)),
    )


def changed_rows(a: Sequence[Output], b: Sequence[Output]) -> Iterator[Changed]:
    for ours, theirs in zip(a, b, strict=True):
        if ours.score != theirs.score:
            yield Changed(
                line=ours.line,
                target=ours.target,
                a_output=ours.output,
                b_output=theirs.output,
                a_score=ours.score,
                b_score=theirs.score,
            )


def require_same_rows(a: Sequence[Output], b: Sequence[Output]) -> None:
    """Raises `DifferentRows`, naming the first difference."""
    for ours, theirs in zip(a, b, strict=False):
        if _row(ours) != _row(theirs):
            raise _different(a, b, _difference(ours, theirs))
    if len(a) != len(b):
        side, longer = ("A", a) if len(a) > len(b) else ("B", b)
        first = longer[min(len(a), len(b))]
        raise _different(a, b, f"only {side} has line {first.line}")


def _row(output: Output) -> tuple[str, str]:
    return output.prompt_sha256, output.target


def _difference(ours: Output, theirs: Output) -> str:
    """Of two rows at the same place; rows come in the order of their lines."""
    if ours.line != theirs.line:
        side, row = ("A", ours) if ours.line < theirs.line else ("B", theirs)
        return f"only {side} has line {row.line}"
    what = "prompt" if ours.prompt_sha256 != theirs.prompt_sha256 else "target"
    return f"line {ours.line} has another {what}"


def _different(a: Sequence[Output], b: Sequence[Output], first: str) -> DifferentRows:
    counts = "" if len(a) == len(b) else f"; A has {len(a)} rows, B {len(b)}"
    return DifferentRows(f"A and B have not answered the same rows: {first}{counts}")
