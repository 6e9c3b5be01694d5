"""What a run is for. All kinds wait in one line, and are claimed, watched and ended alike."""

from enum import StrEnum


class RunKind(StrEnum):
    TRAINING = "training"
    EVALUATION = "evaluation"
    MERGE = "merge"

    @property
    def prefix(self) -> str:
        """Of its runs' ids."""
        return _PREFIXES[self]

    @property
    def word(self) -> str:
        """As people call it: a run is one that trains, unless said otherwise."""
        return "run" if self is RunKind.TRAINING else self.value


_PREFIXES = {RunKind.TRAINING: "run", RunKind.EVALUATION: "eval", RunKind.MERGE: "merge"}
