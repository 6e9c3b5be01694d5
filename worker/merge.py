"""A merge, readable as a list: prepare, let it be merged and measured, judge, publish."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from finlora_core.adapters import base, registry
from finlora_core.adapters.manifest import (
    CARD,
    MANIFEST,
    TOKENIZER_FILES,
    File,
    describe,
    write_manifest,
)
from finlora_core.adapters.tensors import read_header
from finlora_core.datasets.cache import DatasetChecker
from finlora_core.db.models import Adapter, Run
from finlora_core.errors import (
    AdapterDamaged,
    AdapterFilesMissing,
    DatasetNotFound,
    InvalidAdapter,
    InvalidDataset,
)
from finlora_core.merging import results
from finlora_core.merging.card import card
from finlora_core.merging.fidelity import Fidelity, shortcomings
from finlora_core.merging.probes import ROWS, TOKENS, Probe, find_probe
from finlora_core.playground import bits_of
from finlora_core.runs.status import Phase
from finlora_core.training.diagnose import FailureCode
from worker.bench import Bench
from worker.facts import Merge
from worker.finish import Product
from worker.machine import describe_hardware, packages
from worker.merge_errand import MergeErrand
from worker.prepare import (
    adapter_folder,
    failed,
    require_base_model,
    require_disk,
    require_same_vocabulary,
)
from worker.run_errand import run_errand
from worker.supervise import Watch

SETTINGS = ("config.json", "generation_config.json")


def perform_merge(bench: Bench, attempt: Merge, watch: Watch) -> Product:
    """Raises `AttemptEnded`, `LeaseLost`."""
    attempt.files.create()
    require_disk(bench, attempt)
    probe = _unchanged_probe(bench, attempt)
    adapter, folder = _adapter(bench, attempt)
    base_folder = require_base_model(bench, attempt, watch)
    require_same_vocabulary(base_folder, [folder])
    _require_room(bench, attempt, base_folder)
    bench.enter_phase(attempt.lease, Phase.MERGING)
    errand = MergeErrand(
        base=base_folder,
        adapter=folder,
        quant_bits=bits_of(adapter.variant),
        hardware=bench.hardware,
        form=probe.form,
        rows=tuple((row.given, row.target) for row in probe.rows),
    )
    run_errand(bench, attempt, errand, bench.merge_command, watch, FailureCode.MERGE_ERROR)
    fidelity = _measured(attempt)
    _require_faithful(attempt, fidelity)
    bench.enter_phase(attempt.lease, Phase.PUBLISHING)
    facts = _facts(bench, attempt, adapter, base_folder, probe, fidelity)
    files = _publish(bench, attempt, facts)
    id = results.merged_id(attempt.lease.run_id, attempt.lease.attempt)

    def store(session: Session, run: Run) -> None:
        results.store(session, run, id, fidelity, files)

    return Product(store)


def _unchanged_probe(bench: Bench, attempt: Merge) -> Probe:
    try:
        probe = find_probe(
            attempt.config.dataset_path, attempt.owner, bench.settings, DatasetChecker()
        )
    except (DatasetNotFound, InvalidDataset) as error:
        raise failed(FailureCode.DATASET_UNREADABLE, detail=str(error)) from None
    if probe.facts.sha256 != attempt.dataset_sha256:
        raise failed(FailureCode.DATASET_CHANGED, detail=probe.written or "the service's own")
    return probe


def _adapter(bench: Bench, attempt: Merge) -> tuple[Adapter, Path]:
    try:
        with bench.database.reading() as session:
            adapter = registry.get_any_adapter(session, attempt.config.adapter_id)
            return adapter, adapter_folder(bench, adapter)
    except (AdapterDamaged, AdapterFilesMissing) as error:
        raise failed(FailureCode.ADAPTER_UNREADABLE, detail=str(error)) from None


def _require_room(bench: Bench, attempt: Merge, base_folder: Path) -> None:
    """For the model in 16 bits, on the disk where it is made and on that where it is to lie; and
    on the first for the logits that it is compared with, in 32."""
    try:
        tensors = [t for file in base.weight_files(base_folder) for t in read_header(file)]
    except InvalidAdapter as error:
        raise failed(FailureCode.BASE_MODEL_UNREADABLE, detail=str(error)) from None
    size = 2 * sum(math.prod(tensor.shape) for tensor in tensors)
    vocabulary = max((tensor.shape[0] for tensor in tensors if tensor.shape), default=0)
    logits = 4 * ROWS * TOKENS * vocabulary  # the embeddings have the most rows
    adapters = bench.settings.adapters
    adapters.mkdir(parents=True, exist_ok=True)
    require_disk(bench, attempt, size=size + logits)
    require_disk(bench, attempt, size=size, folder=adapters)


def _measured(attempt: Merge) -> Fidelity:
    """Raises `AttemptEnded` when the marker makes no sense."""
    try:
        return Fidelity.model_validate_json(attempt.files.completed.read_text())
    except ValueError as error:
        raise failed(FailureCode.MERGE_ERROR, detail=f"its marker: {error}") from None


def _require_faithful(attempt: Merge, fidelity: Fidelity) -> None:
    found = shortcomings(fidelity, attempt.config)
    if found and attempt.config.override is None:
        raise failed(FailureCode.MERGE_NOT_FAITHFUL, detail="; ".join(found))


def _publish(bench: Bench, attempt: Merge, facts: Mapping[str, Any]) -> Sequence[File]:
    """The files of the model, whole and on disk; no row lists them yet.

    Raises `AttemptEnded` when what was saved is not a sound model.
    """
    id, output = (
        results.merged_id(attempt.lease.run_id, attempt.lease.attempt),
        attempt.files.output,
    )
    try:
        weights = [file.name for file in base.weight_files(output)]
        if not weights:
            raise InvalidAdapter("no weights were saved")
        staged = bench.merged.stage(
            id, output, (*weights, base.INDEX, *SETTINGS, *TOKENIZER_FILES)
        )
        for file in weights:
            read_header(staged / file)
    except (InvalidAdapter, OSError) as error:
        bench.merged.discard_staged(id)
        raise failed(FailureCode.MERGE_ERROR, detail=str(error)) from None
    (staged / CARD).write_text(card(facts))
    files = describe(staged, [file.name for file in staged.iterdir()])
    write_manifest(staged, facts, files)
    bench.merged.publish(id, staged)
    return sorted([*files, *describe(bench.merged.folder(id), [MANIFEST])], key=lambda f: f.path)


def _facts(
    bench: Bench,
    attempt: Merge,
    adapter: Adapter,
    base_folder: Path,
    probe: Probe,
    fidelity: Fidelity,
) -> Mapping[str, Any]:
    return {
        "merge_id": attempt.lease.run_id,
        "attempt": attempt.lease.attempt,
        "name": adapter.name,
        "adapter_id": adapter.id,
        "adapter_version": adapter.version,
        "adapter_sha256": adapter.sha256,
        "variant": adapter.variant,
        "base_model": adapter.base_model,
        **base.describe(base_folder),
        "quant_bits": bits_of(adapter.variant),
        "config": attempt.config.model_dump(mode="json"),
        "dataset_sha256": probe.facts.sha256,
        "fidelity": fidelity.model_dump(),
        "overridden": shortcomings(fidelity, attempt.config),
        "packages": packages(),
        "hardware": describe_hardware(bench.hardware, attempt.gpus),
    }
