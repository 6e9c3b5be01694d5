"""What is known of an attempt when it begins."""

from collections.abc import Sequence
from dataclasses import dataclass

from finlora_core.evaluation.config import EvaluationConfig
from finlora_core.merging.config import MergeConfig
from finlora_core.runs.config import RunConfig
from finlora_core.runs.lifecycle import Lease
from finlora_core.training.checkpoints import Lineage
from finlora_core.training.files import AttemptFiles, RunFiles


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt as the worker sees it, at a run of any kind."""

    lease: Lease
    owner: str
    name: str
    base_model: str
    dataset_sha256: str
    gpus: Sequence[str]
    """UUIDs of those it works on; none on a CPU."""
    seconds_left: float
    """Of the run's time limit; infinite without one."""
    run_files: RunFiles
    earlier_here: Sequence[int]
    """Numbers of the run's attempts before, those on this machine since it was booted."""

    @property
    def files(self) -> AttemptFiles:
        return self.run_files.attempt(self.lease.attempt)


@dataclass(frozen=True, kw_only=True)
class Training(Attempt):
    config: RunConfig
    dataset_rows: int
    validation_sha256: str | None
    ancestors: Sequence[RunFiles]
    """Of the runs that this one tries again, the nearest first."""

    @property
    def lineage(self) -> Lineage:
        return Lineage(self.config.sha256, self.dataset_sha256)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Attempt):
    config: EvaluationConfig


@dataclass(frozen=True, kw_only=True)
class Merge(Attempt):
    config: MergeConfig
