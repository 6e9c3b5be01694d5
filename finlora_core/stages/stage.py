"""The stages, and the evidence that the last one needs. Pure.

candidate <-> staging <-> production
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Stage(StrEnum):
    CANDIDATE = "candidate"
    """As every adapter begins."""
    STAGING = "staging"
    """Chosen to be tried, or in production until another one was."""
    PRODUCTION = "production"
    """At most one of an owner's adapters of a name."""


STEPS: Mapping[Stage, Set[Stage]] = MappingProxyType(
    {
        Stage.CANDIDATE: frozenset({Stage.STAGING}),
        Stage.STAGING: frozenset({Stage.CANDIDATE, Stage.PRODUCTION}),
        Stage.PRODUCTION: frozenset({Stage.STAGING}),
    }
)

LEAST_ROWS = 30
"""Of a comparison that counts as evidence: from fewer, resampling learns too little of how rows
vary; of a single one it learns nothing, and says so with certainty."""


@dataclass(frozen=True)
class Evidence:
    """A comparison of the adapter that is to be promoted with the one whose place it takes."""

    comparison_id: str
    rows: int
    is_better: bool
    """The one that is to be promoted, by the verdict."""
    verdict: str


def lacking(incumbent: str, evidence: Evidence | None, override: str | None) -> str | None:
    """Why an adapter may not take the place of `incumbent` in production; None when it may."""
    if override is not None:
        return None
    if evidence is None:
        return f"it has not been compared with {incumbent}"
    said = f"{evidence.comparison_id} compares it with {incumbent}"
    if evidence.rows < LEAST_ROWS:
        return f"{said} on {evidence.rows} rows; at least {LEAST_ROWS} are needed"
    if not evidence.is_better:
        return f"{said}, and does not find it better: {evidence.verdict}"
    return None
