"""What is known of an attempt when it begins."""

from collections.abc import Sequence
from dataclasses import dataclass

from finlora_core.runs.config import RunConfig
from finlora_core.runs.lifecycle import Lease
from finlora_core.training.checkpoints import Lineage
from finlora_core.training.files import AttemptFiles, RunFiles


@dataclass(frozen=True)
class Attempt:
    """One attempt as the worker sees it."""

    lease: Lease
    owner: str
    name: str
    config: RunConfig
    dataset_sha256: str
    dataset_rows: int
    validation_sha256: str | None
    gpus: Sequence[str]
    """UUIDs of those it trains on; none on a CPU."""
    seconds_left: float
    """Of the run's time limit; infinite without one."""
    run_files: RunFiles
    ancestors: Sequence[RunFiles]
    """Of the runs that this one tries again, the nearest first."""
    earlier_here: Sequence[int]
    """Numbers of the run's attempts before, those on this machine since it was booted."""

    @property
    def files(self) -> AttemptFiles:
        return self.run_files.attempt(self.lease.attempt)

    @property
    def lineage(self) -> Lineage:
        return Lineage(self.config.sha256, self.dataset_sha256)
