"""Races: contestants that are measured in turns, and what was seen of each."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from benchmarks.side_by_side.load import GIVE_UP_SECONDS, Load, Target, measure

Loads = Mapping[str, Sequence[Load]]
"""By contestant, one a round."""

Measure = Callable[[Load], float]


class WrongAnswer(Exception):
    """The service answered with an error: what it does with more of them is no measurement."""


@dataclass(frozen=True)
class Pace:
    """How much is measured."""

    connections: Sequence[int]
    downloads: Sequence[int]
    """Connections of these."""
    rounds: int
    seconds: float
    warm_up: float


@dataclass(frozen=True)
class Race:
    """Targets that are measured in turns."""

    name: str
    targets: Mapping[str, Target]
    """By contestant."""
    is_download: bool = False

    def tell(self, loads: Loads) -> str:
        speed = megabytes_per_second if self.is_download else per_second
        shown = [
            f"{name} {median(map(speed, of)):,.0f}{_errors(of)}" for name, of in loads.items()
        ]
        return f"{', '.join(shown)} {'MB/s' if self.is_download else 'requests/s'}"


class Course:
    """Runs races, says how they go, and keeps what was seen."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._started = time.monotonic()
        self.seen: dict[str, dict[int, Loads]] = {}
        """By race and number of connections."""

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:6.1f} s  {text}", flush=True)

    def run(self, race: Race, connections: Sequence[int]) -> None:
        for number in connections:
            loads = self._rounds(race, number)
            self.seen.setdefault(race.name, {})[number] = loads
            self.say(f"{race.name} x{number}: {race.tell(loads)}")

    def ratios(self, race: str, one: str, other: str, of: Measure) -> Sequence[float]:
        """Of `one` to `other`: for each number of connections the median over the rounds. Where
        the other answered nothing but errors, there is nothing to compare with."""
        return [
            median(of(a) / of(b) for a, b in zip(loads[one], loads[other], strict=True))
            for loads in self.seen.get(race, {}).values()
            if one in loads and other in loads and all(map(of, loads[other]))
        ]

    def figures(self) -> Mapping[str, Any]:
        """By race, connections and contestant."""
        return {
            race: {
                f"x{number}": {name: _figures(of) for name, of in loads.items()}
                for number, loads in by_number.items()
            }
            for race, by_number in self.seen.items()
        }

    def _rounds(self, race: Race, connections: int) -> Loads:
        names = list(race.targets)
        loads: dict[str, list[Load]] = {name: [] for name in names}
        for name in names:
            measure(race.targets[name], connections, self.pace.warm_up)
        for turn in range(self.pace.rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                load = measure(race.targets[name], connections, self.pace.seconds)
                if load.errors and not race.targets[name].may_fail:
                    raise WrongAnswer(
                        f"{race.name}, {name}: {load.errors} of {load.requests} answers were "
                        f"errors; the first:\n{load.first_error}"
                    )
                loads[name].append(load)
        return loads


def per_second(load: Load) -> float:
    """Good answers."""
    return (load.requests - load.errors) / load.seconds


def _errors(loads: Sequence[Load]) -> str:
    errors = sum(load.errors for load in loads)
    return f" ({errors} of {sum(load.requests for load in loads)} were errors)" if errors else ""


def megabytes_per_second(load: Load) -> float:
    return load.bytes / load.seconds / 1e6


def p99_ms(load: Load) -> float:
    return percentile_ms(load, 99)


def percentile_ms(load: Load, percent: int) -> float:
    if len(load.latencies_ms) < 2:
        return load.latencies_ms[0] if load.latencies_ms else 1000 * GIVE_UP_SECONDS
    return quantiles(load.latencies_ms, n=100, method="inclusive")[percent - 1]


def _figures(loads: Sequence[Load]) -> Mapping[str, float]:
    """Medians over the rounds."""
    return {
        "per_s": round(median(map(per_second, loads)), 1),
        "mb_per_s": round(median(map(megabytes_per_second, loads)), 1),
        "p50_ms": round(median(percentile_ms(load, 50) for load in loads), 2),
        "p99_ms": round(median(map(p99_ms, loads)), 2),
        "requests": sum(load.requests for load in loads),
        "errors": sum(load.errors for load in loads),
        "load_cpu": round(max(load.cpu for load in loads), 2),
    }
