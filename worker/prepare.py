"""Before training: the base model at hand, the dataset unchanged, enough disk."""

import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from finlora_core.adapters import registry
from finlora_core.adapters.base import read_modules
from finlora_core.adapters.check import changes_base, find_grown_embedding
from finlora_core.adapters.manifest import File
from finlora_core.datasets.check import check_dataset
from finlora_core.datasets.locate import find_dataset
from finlora_core.db.models import Adapter
from finlora_core.errors import (
    BaseModelUnreadable,
    DatasetNotFound,
    InvalidAdapter,
    InvalidDataset,
)
from finlora_core.runs.config import PromptFormat, RunConfig
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.training.axolotl import CPU_OPTIMIZERS, Hardware, TrainingInput
from finlora_core.training.base_model import BaseModelFacts, read_base_model
from finlora_core.training.diagnose import FailureCode, failure
from worker import base_model
from worker.bench import Bench
from worker.environment import fetch_environment
from worker.facts import Attempt, Training
from worker.fetch_codes import FULL, GATED
from worker.hardware import memory_of
from worker.launch import launch
from worker.supervise import AttemptEnded, Watch, supervise

MIB = 1024 * 1024

NOT_THERE = FailureCode.BASE_MODEL_NOT_FOUND
_FETCH_FAILURES = {GATED: FailureCode.GATED_MODEL, FULL: FailureCode.DISK_FULL}


def prepare(bench: Bench, attempt: Training, watch: Watch) -> TrainingInput:
    """What Axolotl is to read, all of it at hand. Raises `AttemptEnded` with the reason."""
    attempt.files.create()
    require_disk(bench, attempt)
    _require_optimizer(bench, attempt)
    _require_deepspeed(attempt)
    config = attempt.config
    dataset = _unchanged(bench, attempt, config.dataset_path, attempt.dataset_sha256)
    validation = config.validation_dataset_path and _unchanged(
        bench, attempt, config.validation_dataset_path, attempt.validation_sha256
    )
    folder = require_base_model(bench, attempt, watch)
    return TrainingInput(
        base_model=str(folder),
        model=_facts_of(folder, config),
        dataset=str(dataset),
        dataset_rows=attempt.dataset_rows,
        validation_dataset=str(validation) if validation else None,
        gpu_bytes=memory_of(attempt.gpus) if attempt.gpus else None,
    )


def failed(code: FailureCode, *, log: str = "", detail: str = "") -> AttemptEnded:
    return AttemptEnded(AttemptEnd(end=End.FAILED, failure=failure(code, log, detail)))


def require_disk(
    bench: Bench, attempt: Attempt, *, folder: Path | None = None, size: int = 0
) -> None:
    """Room for `size` bytes, and what is always to be left, where the attempt's files lie or in
    another folder."""
    free = shutil.disk_usage(folder or attempt.files.root).free // MIB
    wanted = bench.settings.min_free_disk_mib + size // MIB
    if free < wanted:
        raise failed(
            FailureCode.INSUFFICIENT_DISK, detail=f"{free} MiB are free, {wanted} MiB are wanted"
        )


def _require_optimizer(bench: Bench, attempt: Training) -> None:
    """Rather no training than one with another optimizer than was asked for."""
    chosen = attempt.config.optimizer
    if bench.hardware is Hardware.CPU and chosen not in (None, *CPU_OPTIMIZERS):
        raise failed(
            FailureCode.OPTIMIZER_NEEDS_GPU, detail=f"{chosen}; here {', '.join(CPU_OPTIMIZERS)}"
        )


def _require_deepspeed(attempt: Training) -> None:
    """Before a model of many GB is fetched."""
    spread = attempt.config.spread
    if spread is not None and spread.is_deepspeed and find_spec("deepspeed") is None:
        raise failed(FailureCode.DEEPSPEED_NOT_INSTALLED, detail=spread)


def _unchanged(bench: Bench, attempt: Training, written: str, sha256: str | None) -> Path:
    """The dataset `written` in the config, if it is still what it was when the run was posted."""
    try:
        path = find_dataset(written, attempt.owner, bench.settings)
        facts = check_dataset(path, attempt.config.prompt_format, shown_as=written)
    except (DatasetNotFound, InvalidDataset) as error:
        raise failed(FailureCode.DATASET_UNREADABLE, detail=str(error)) from None
    if facts.sha256 != sha256:
        raise failed(FailureCode.DATASET_CHANGED, detail=written)
    return path


def adapter_folder(bench: Bench, adapter: Adapter) -> Path:
    """Raises `AdapterDamaged`, `AdapterFilesMissing`."""
    registry.require_sound(adapter)
    return bench.store.require(adapter.id, map(File.model_validate, adapter.files))


def require_same_vocabulary(base_folder: Path, adapters: Iterable[Path]) -> None:
    """Rather a code of its own than a mismatch in the log. Raises `AttemptEnded`."""
    try:
        modules = read_modules(base_folder)
    except InvalidAdapter as error:
        raise failed(FailureCode.BASE_MODEL_UNREADABLE, detail=str(error)) from None
    if modules is None:
        return
    for folder in adapters:
        with _readable(folder):
            grown = find_grown_embedding(folder, modules)
        if grown is not None:
            detail = f"{folder.name}: {grown.name} has shape {grown.shape}"
            raise failed(FailureCode.ADDED_TOKENS, detail=detail)


def needs_own_base(adapter: Path) -> bool:
    """Raises `AttemptEnded`."""
    with _readable(adapter):
        return changes_base(adapter)


@contextmanager
def _readable(adapter: Path) -> Iterator[None]:
    try:
        yield
    except InvalidAdapter as error:
        raise failed(FailureCode.ADAPTER_UNREADABLE, detail=f"{adapter.name}: {error}") from None


def _facts_of(folder: Path, config: RunConfig) -> BaseModelFacts:
    try:
        model = read_base_model(folder)
    except BaseModelUnreadable as error:
        raise failed(FailureCode.BASE_MODEL_UNREADABLE, detail=str(error)) from None
    if config.prompt_format is PromptFormat.CHAT and not model.has_chat_template:
        raise failed(FailureCode.NO_CHAT_TEMPLATE, detail=config.base_model)
    return model


def require_base_model(bench: Bench, attempt: Attempt, watch: Watch) -> Path:
    """Its folder, fetched where it is not at hand. Raises `AttemptEnded`."""
    name, settings = attempt.base_model, bench.settings
    local = base_model.find_local(name, settings)
    if local is not None:
        return local
    command = base_model.fetch_command(sys.executable, name, settings)
    process = launch(bench, attempt, command, fetch_environment(attempt.files, settings))
    code = supervise(process, watch)
    fetched = base_model.find_local(name, settings)
    if code != 0 or fetched is None:
        log = attempt.files.log.read_text(errors="replace")
        raise failed(_FETCH_FAILURES.get(code, NOT_THERE), log=log, detail=name)
    return fetched
