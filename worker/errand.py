"""What the worker asks of the process that answers, or of one that trains, and the lines that
it gets back.

All lie in the attempt's folder. The process knows no owners and no database, and what it writes
is not trusted: it has read a model.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from finlora_core.evaluation.sets import Given
from finlora_core.runs.config import PromptFormat
from finlora_core.training.axolotl import Hardware


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Judging(Shape):
    """What a training is judged by at its saves."""

    task: str
    patience: int | None


class Asked(Shape):
    """A model that is to answer."""

    adapter: Path | None
    quant_bits: Literal[4, 8] | None
    changes_base: bool = False
    """Its adapter cannot be taken out of the base again."""


class Questions(Shape):
    """The prompts of one set."""

    form: PromptFormat
    max_new_tokens: int
    given: tuple[Given, ...]
    free_text: tuple[str, ...] | None = None
    """The targets, where answers are to be compared by what they mean."""


class Errand(Shape):
    """Every model answers every set."""

    base: Path
    hardware: Hardware
    batch_size: int
    models: tuple[Asked, ...]
    sets: tuple[Questions, ...]
    scorers: tuple[Path, ...] = ()
    """Folders in which a model that compares texts may be."""

    @property
    def answers(self) -> int:
        return len(self.models) * sum(len(one.given) for one in self.sets)

    def by_base(self) -> Iterator[tuple[Literal[4, 8] | None, Sequence[int]]]:
        """The bits of each base to load, and the numbers of the models that are asked on it: the
        base itself before its adapters, since it is not the same any more when those are in it."""
        for bits in dict.fromkeys(model.quant_bits for model in self.models):
            same = [n for n, model in enumerate(self.models) if model.quant_bits == bits]
            shared = [n for n in same if not self.models[n].changes_base]
            if shared:
                yield bits, sorted(shared, key=lambda n: self.models[n].adapter is not None)
            yield from ((bits, [n]) for n in same if n not in shared)


class Answer(Shape):
    model: int
    set: int
    row: int
    text: str
    too_long: bool = False
    """The prompt leaves no room in the model's context: nothing was answered."""

    @classmethod
    def parse(cls, line: str) -> "Answer | None":
        try:
            return cls.model_validate_json(line)
        except ValidationError:
            return None


class Meaning(Shape):
    """How near the answers of a model to a set of free text are to the targets."""

    model: int
    set: int
    scorer: str
    scores: tuple[float, ...]


class Completed(Shape):
    """The completion marker."""

    answers: int
    meanings: tuple[Meaning, ...] = ()
