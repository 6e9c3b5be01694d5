"""Which of a training's steps is the best, by the task that it is judged by. Pure.

What is known lies in the trainer's own history, which every checkpoint holds: whoever goes on
from one knows what whoever saved it knew.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from finlora_core.evaluation.tasks import Metric

MOST_ROWS = 200
"""Held-out rows that are answered at each evaluation. They tell accuracies apart that differ by
some 7 points, and cost about as much as a few steps; all rows are for POST /evaluations."""

ROWS = "eval_rows"


def logged_as(metric: Metric) -> str:
    return f"eval_{metric}"


class Judgement(BaseModel):
    """How well the adapter of one step answers the held-out rows."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    step: int
    metric: Metric
    value: float
    rows: int

    @classmethod
    def parse(cls, point: Mapping[str, Any], metric: Metric) -> Self | None:
        """The judgement in a point of the history; None where it is about something else."""
        key = logged_as(metric)
        if key not in point:
            return None
        return cls(step=point["step"], metric=metric, value=point[key], rows=point[ROWS])

    @property
    def values(self) -> Mapping[str, float]:
        """As they are logged."""
        return {logged_as(self.metric): self.value, ROWS: self.rows}


def judgements(history: Iterable[Mapping[str, Any]], metric: Metric) -> Sequence[Judgement]:
    """Those in a trainer's history, in the order of their steps."""
    found = (Judgement.parse(point, metric) for point in history)
    return [judgement for judgement in found if judgement is not None]


def best(made: Sequence[Judgement]) -> Judgement | None:
    """Of two that are as good the earlier: it has been trained less."""
    return max(made, key=lambda one: one.value, default=None)


def is_out_of_patience(made: Sequence[Judgement], patience: int | None) -> bool:
    """Whether so many judgements lie behind the best one."""
    top = best(made)
    if patience is None or top is None:
        return False
    return len(made) - 1 - made.index(top) >= patience


def is_due(step: int, *, save_steps: int, max_steps: int) -> bool:
    """A judgement belongs to each step at which the schedule saves, and to the last one. Saves by
    time have none: where they fall depends on the machine, and the best step must not."""
    return step > 0 and (step % save_steps == 0 or step >= max_steps)


def latest(history: Iterable[Mapping[str, Any]], *, up_to: int) -> Mapping[str, Any]:
    """The newest of each value that was logged up to a step."""
    values: dict[str, Any] = {}
    for point in history:
        if point["step"] <= up_to:
            values |= point
    values.pop("step", None)
    return values
