"""What a key may be used for."""

from collections.abc import Set
from enum import StrEnum


class Scope(StrEnum):
    RUNS_READ = "runs:read"
    RUNS_WRITE = "runs:write"
    DATASETS_READ = "datasets:read"
    DATASETS_WRITE = "datasets:write"
    ADAPTERS_READ = "adapters:read"
    ADAPTERS_WRITE = "adapters:write"
    ADMIN = "admin"
    """Keys of every owner. It opens nobody's runs, datasets or adapters."""


ALL: Set[Scope] = frozenset(Scope)
OWN: Set[Scope] = ALL - {Scope.ADMIN}
"""Everything that is one's own."""
