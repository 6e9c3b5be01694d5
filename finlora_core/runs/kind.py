"""What a run is for. All kinds wait in one line, and are claimed, watched and ended alike."""

from enum import StrEnum


class RunKind(StrEnum):
    TRAINING = "training"
    EVALUATION = "evaluation"

    @property
    def prefix(self) -> str:
        """Of its runs' ids."""
        return {RunKind.TRAINING: "run", RunKind.EVALUATION: "eval"}[self]

    @property
    def word(self) -> str:
        """As people call it: a run is one that trains, unless said otherwise."""
        return {RunKind.TRAINING: "run", RunKind.EVALUATION: "evaluation"}[self]
