"""Inside the training process: what the worker passes on, and people read."""

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finlora_core.training.diagnose import FailureCode
from finlora_core.training.files import AttemptFiles
from worker.processes import is_first_process
from worker.tail import write_json

PROGRESS_EVERY = 0.5  # seconds


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Writes what the worker passes on: the newest step, and a line for each log."""

    def __init__(
        self, files: AttemptFiles, facts: dict[str, Any], was_asked_to_stop: Callable[[], bool]
    ) -> None:
        self._files = files
        self._facts = facts
        self._was_asked_to_stop = was_asked_to_stop
        self._answered = 0
        self._started = self._last_written = time.monotonic()
        self._first_step = 0
        self._latest: dict[str, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._started = time.monotonic()
        self._first_step = state.global_step
        for point in state.log_history:  # of the attempts before
            self._latest |= {key: value for key, value in point.items() if key != "step"}
        self._write_progress(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        due = time.monotonic() - self._last_written >= PROGRESS_EVERY
        if due or state.global_step == state.max_steps:
            self._write_progress(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if "train_loss" in (logs or {}) and self._was_asked_to_stop():
            return  # the summary comes with the end
        if not is_first_process():
            return
        logs = for_the_whole_run(logs or {}, state, self._first_step)
        self.record(logs, state)
        if "loss" in logs and finite(logs["loss"]) is None:
            write_json(self._files.failure, {"code": FailureCode.LOSS_NOT_FINITE.value})
            raise SystemExit(f"the loss is not finite at step {state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._facts |= {"steps": state.global_step, "metrics": self._latest}

    def record(self, values: Mapping[str, Any], state: TrainerState) -> None:
        """A line of metrics, of what is a number."""
        if not is_first_process():
            return
        numbers = {key: finite(value) for key, value in values.items()}
        point = {key: number for key, number in numbers.items() if number is not None}
        self._latest.update(point)
        with self._files.metrics.open("a") as file:
            file.write(json.dumps({**point, "step": state.global_step}) + "\n")
        self._write_progress(state)

    def heard(self, answers: int, state: TrainerState) -> None:
        """Between two steps, so that no step for long is no sign of a training that is stuck."""
        self._answered += answers
        self._write_progress(state)

    def _write_progress(self, state: TrainerState) -> None:
        if not is_first_process():
            return
        self._last_written = time.monotonic()
        done = state.global_step - self._first_step
        left = state.max_steps - state.global_step
        pace = (self._last_written - self._started) / done if done else None  # seconds a step
        write_json(
            self._files.progress,
            {
                "step": state.global_step,
                "max_steps": state.max_steps,
                "percent": round(100 * state.global_step / max(1, state.max_steps), 1),
                "epoch": state.epoch and round(state.epoch, 3),
                "loss": self._latest.get("loss"),
                "eta_seconds": None if pace is None else round(pace * left, 1),
                "dropped_rows": self._facts["dropped_rows"],
                "answered": self._answered,
            },
        )


def for_the_whole_run(
    logs: dict[str, float], state: TrainerState, first_step: int
) -> dict[str, float]:
    """The summary of a resumed training, for which the trainer divides what it has seen of
    the losses and of the time by all of the run's steps."""
    if not first_step or "train_loss" not in logs:
        return logs
    share = (state.global_step - first_step) / state.global_step
    paces = {key: value * share for key, value in logs.items() if key.endswith("_per_second")}
    return {**logs, **paces, "train_loss": mean_loss(state.log_history)}


def mean_loss(history: list[dict[str, float]]) -> float:
    """Of all steps up to the last one logged; each point stands for those since the one before."""
    total, seen = 0.0, 0.0
    for point in history:
        if "loss" in point:
            total += point["loss"] * (point["step"] - seen)
            seen = point["step"]
    return total / max(1.0, seen)


def finite(value: Any) -> float | None:
    """The number, or None for NaN, infinity and what is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
