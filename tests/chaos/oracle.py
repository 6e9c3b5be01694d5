"""What the trainers themselves have written down, whatever the service says of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.trainer import next_state

Event = Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """One run's log: every attempt that ever trained, in the order of what happened."""

    run_id: str
    events: Sequence[Event]

    def of_kind(self, kind: str) -> Sequence[Event]:
        return [event for event in self.events if event["event"] == kind]

    def next_step(self, *, after: float, beyond: int) -> float | None:
        """When an attempt later than `beyond` first made a step after `after`."""
        steps = (event for event in self.of_kind("step") if event["attempt"] > beyond)
        return next((event["at"] for event in steps if event["at"] > after), None)

    def repeated_steps(self) -> int:
        """The most steps that one attempt did over again."""
        return max(self._repeats(), default=0)

    def wrong_result(self) -> bool:
        """Whether an attempt ended with another number than an undisturbed one would."""
        return any(event["state"] != _expected(event["step"]) for event in self.of_kind("done"))

    def trained_after(self, wall: float) -> Sequence[Event]:
        """Starts and steps later than this time of day."""
        starts = self.of_kind("start")
        if not starts:
            return []
        since_boot = wall - (starts[0]["wall"] - starts[0]["at"])
        return [*_later(starts, since_boot), *_later(self.of_kind("step"), since_boot)]

    def _repeats(self) -> Iterator[int]:
        furthest = 0
        for event in self.events:
            if event["event"] == "start":
                yield furthest - event["step"]
            furthest = max(furthest, event.get("step", 0))


def read_histories(folder: Path) -> Mapping[str, History]:
    logs = sorted(folder.glob("*.log"))
    return {log.stem: History(log.stem, _events(log)) for log in logs}


def _events(log: Path) -> Sequence[Event]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def _later(events: Sequence[Event], at: float) -> Sequence[Event]:
    return [event for event in events if event["at"] > at]


def _expected(steps: int) -> int:
    state = 0
    for step in range(1, steps + 1):
        state = next_state(state, step)
    return state
