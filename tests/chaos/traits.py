"""What kind of trainer a run gets: decided by the seed of the chaos and the run's own seed.

The run's own seed is in its YAML, so every attempt of a run is of the same kind.
"""

import json
import os
import random
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from finlora_core.training.files import AttemptFiles

PLAN = "CHAOS_PLAN"
"""The variable that takes a `Plan` to the workers, as JSON."""

TRAINER = Path(__file__).with_name("trainer.py")


@dataclass(frozen=True)
class Traits:
    """Of one run's trainers."""

    steps: int
    step_seconds: float
    save_every: int
    ignores_term: bool
    straggler: bool


@dataclass(frozen=True)
class Plan:
    """What all trainers of one chaos share."""

    kind: str
    """A key of KINDS."""
    seed: int
    oracle: str
    adapter: str
    templates: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> "Plan":
        return cls(**json.loads(os.environ[PLAN]))


def mixed(seed: int, number: int) -> Traits:
    """Short trainings, a few of them badly behaved."""
    dice = random.Random(f"{seed} {number}")  # noqa: S311  # for variety, not for secrets
    return Traits(
        steps=dice.randint(15, 130),
        step_seconds=dice.uniform(0.02, 0.05),
        save_every=dice.randint(4, 10),
        ignores_term=dice.random() < 0.25,
        straggler=dice.random() < 0.25,
    )


def polite(seed: int, number: int) -> Traits:
    """Trains for hours, and stops when it is told to."""
    return Traits(10**6, 0.1, 100, ignores_term=False, straggler=False)


def by_parity(seed: int, number: int) -> Traits:
    """Odd runs are the worst there is: deaf to TERM, and with a child in another session."""
    return replace(polite(seed, number), ignores_term=bool(number % 2), straggler=bool(number % 2))


KINDS: dict[str, Callable[[int, int], Traits]] = {"mixed": mixed, "by_parity": by_parity}


def traits_of(plan: Plan, number: int) -> Traits:
    return KINDS[plan.kind](plan.seed, number)


def train_command(plan: Plan) -> Callable[[AttemptFiles, int], Sequence[str]]:
    def command(files: AttemptFiles, processes: int) -> Sequence[str]:
        traits = asdict(traits_of(plan, run_seed(files.config)))
        shared = {"oracle": plan.oracle, "adapter": plan.adapter, "templates": plan.templates}
        given = json.dumps({**traits, **shared})
        return [sys.executable, "-I", "-S", str(TRAINER), given, str(files.config)]

    return command


def run_seed(config: Path) -> int:
    found = re.search(r"^seed: (\d+)$", config.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
