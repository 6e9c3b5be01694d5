"""What a run is for. All kinds wait in one line, and are claimed, watched and ended alike."""

import secrets
from datetime import datetime
from enum import StrEnum


class RunKind(StrEnum):
    TRAINING = "training"
    EVALUATION = "evaluation"
    MERGE = "merge"

    @property
    def prefix(self) -> str:
        """Of its runs' ids."""
        return _PREFIXES[self]

    def new_id(self, at: datetime) -> str:
        """Its milliseconds, and 32 random bits. Ids that grow with time go to the end of each
        index, where the newest are: at random they would touch a page of their own in each."""
        return f"{self.prefix}_{int(1000 * at.timestamp()):012x}{secrets.token_hex(4)}"

    @property
    def word(self) -> str:
        """As people call it: a run is one that trains, unless said otherwise."""
        return "run" if self is RunKind.TRAINING else self.value


_PREFIXES = {RunKind.TRAINING: "run", RunKind.EVALUATION: "eval", RunKind.MERGE: "merge"}
