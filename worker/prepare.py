"""Before training: the base model at hand, the dataset unchanged, the YAML written."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from finlora_core.datasets.check import check_dataset
from finlora_core.datasets.locate import locate_dataset
from finlora_core.errors import DatasetNotFound, InvalidDataset
from finlora_core.runs import lifecycle
from finlora_core.runs.config import RunConfig
from finlora_core.runs.lifecycle import Lease
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.training.axolotl import TrainingInput, render, to_yaml
from finlora_core.training.diagnose import FailureCode, failure
from finlora_core.training.files import AttemptFiles
from worker import base_model
from worker.bench import Bench
from worker.environment import fetch_environment
from worker.fetch_codes import FULL, GATED
from worker.process import GuardedProcess
from worker.supervise import AttemptEnded, Heartbeat, supervise

MIB = 1024 * 1024

NOT_THERE = FailureCode.BASE_MODEL_NOT_FOUND
_FETCH_FAILURES = {GATED: FailureCode.GATED_MODEL, FULL: FailureCode.DISK_FULL}


@dataclass(frozen=True)
class Attempt:
    """One attempt as the worker sees it."""

    lease: Lease
    name: str
    config: RunConfig
    dataset_sha256: str
    dataset_rows: int
    files: AttemptFiles


def prepare(bench: Bench, attempt: Attempt, heartbeat: Heartbeat) -> None:
    """Leaves `attempt.files.config` ready for Axolotl. Raises `AttemptEnded` with the reason."""
    attempt.files.create()
    _require_disk(bench, attempt)
    dataset = _unchanged_dataset(bench, attempt)
    model = _base_model(bench, attempt, heartbeat)
    given = TrainingInput(str(model), str(dataset), attempt.dataset_rows)
    yaml = to_yaml(render(attempt.config, given, attempt.files, bench.hardware))
    attempt.files.config.write_text(yaml)
    bench.tell(lambda session, at: lifecycle.record_yaml(session, attempt.lease, yaml, now=at))


def failed(code: FailureCode, *, log: str = "", detail: str = "") -> AttemptEnded:
    return AttemptEnded(AttemptEnd(end=End.FAILED, failure=failure(code, log, detail)))


def _require_disk(bench: Bench, attempt: Attempt) -> None:
    free = shutil.disk_usage(attempt.files.root).free // MIB
    wanted = bench.settings.min_free_disk_mib
    if free < wanted:
        raise failed(
            FailureCode.INSUFFICIENT_DISK, detail=f"{free} MiB are free, {wanted} MiB are wanted"
        )


def _unchanged_dataset(bench: Bench, attempt: Attempt) -> Path:
    written = attempt.config.dataset_path
    try:
        path = locate_dataset(written, bench.settings.datasets)
        facts = check_dataset(path, shown_as=written)
    except (DatasetNotFound, InvalidDataset) as error:
        raise failed(FailureCode.DATASET_UNREADABLE, detail=str(error)) from None
    if facts.sha256 != attempt.dataset_sha256:
        raise failed(FailureCode.DATASET_CHANGED, detail=written)
    return path


def _base_model(bench: Bench, attempt: Attempt, heartbeat: Heartbeat) -> Path:
    name, settings = attempt.config.base_model, bench.settings
    local = base_model.find_local(name, settings)
    if local is not None:
        return local
    process = GuardedProcess.start(
        base_model.fetch_command(sys.executable, name, settings),
        log=attempt.files.log,
        cwd=attempt.files.cwd,
        env=fetch_environment(attempt.files, settings),
        grace=settings.stop_grace_seconds,
        silence=settings.fence_seconds,
    )
    code = supervise(process, heartbeat, bench.draining.is_set)
    fetched = base_model.find_local(name, settings)
    if code != 0 or fetched is None:
        log = attempt.files.log.read_text(errors="replace")
        raise failed(_FETCH_FAILURES.get(code, NOT_THERE), log=log, detail=name)
    return fetched
