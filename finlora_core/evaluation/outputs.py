"""What a model has answered to each row, and what it was worth: a line of JSON a row."""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, Self

from finlora_core.evaluation.metrics import Judged
from finlora_core.evaluation.sets import Row


class Answer(Protocol):
    """What the process that has the model in memory gives for a row."""

    @property
    def text(self) -> str: ...

    @property
    def too_long(self) -> bool:
        """The prompt left no room in the model's context: nothing was answered."""


class Meaning(Protocol):
    """BERTScores of answers that are free text."""

    @property
    def scorer(self) -> str: ...

    @property
    def scores(self) -> Sequence[float]: ...


@dataclass(frozen=True)
class Output:
    line: int
    """Of the dataset's file, counted from 1."""
    prompt_sha256: str
    target: str
    output: str
    prediction: str | None
    """What was read out of the output; None where nothing could be."""
    score: float
    weight: float

    @classmethod
    def of(cls, row: Row, output: str, judged: Judged) -> Self:
        return cls(
            line=row.line,
            prompt_sha256=row.prompt_sha256,
            target=row.target,
            output=output,
            prediction=judged.prediction,
            score=judged.score,
            weight=judged.weight,
        )


def pack(outputs: Sequence[Output]) -> bytes:
    lines = "".join(f"{json.dumps(asdict(one), ensure_ascii=False)}\n" for one in outputs)
    return gzip.compress(lines.encode(), compresslevel=6, mtime=0)


def unpack(packed: bytes) -> bytes:
    return gzip.decompress(packed)


def read(packed: bytes) -> Iterator[Output]:
    for line in unpack(packed).splitlines():
        yield Output(**json.loads(line))
