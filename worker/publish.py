"""After training: the checked adapter, with its manifest and card, at its final place."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finlora_core.adapters.card import write_card
from finlora_core.adapters.check import check_adapter
from finlora_core.adapters.manifest import CARD, CONFIG, MANIFEST, PUBLISHED, File, describe
from finlora_core.adapters.registry import adapter_id
from finlora_core.errors import InvalidAdapter
from finlora_core.training.diagnose import FailureCode
from worker.bench import Bench
from worker.facts import Attempt
from worker.prepare import failed
from worker.tail import read_json


def publish(bench: Bench, attempt: Attempt) -> Sequence[File]:
    """The files of the new version, whole and on disk; no row lists them yet.

    Raises `AttemptEnded` when what training left is not a sound adapter.
    """
    id = adapter_id(attempt.lease.run_id, attempt.lease.attempt)
    staged = bench.store.stage(id, attempt.files.output)
    try:
        check_adapter(staged, attempt.config)  # the copy: what is checked is what is published
    except InvalidAdapter as error:
        shutil.rmtree(staged)
        raise failed(FailureCode.INVALID_ADAPTER, detail=str(error)) from None
    _name_the_base(staged / CONFIG, attempt.config.base_model)
    lineage = _lineage(id, attempt)
    write_card(staged / CARD, lineage)
    _write_manifest(staged, lineage)
    files = describe(staged, (*PUBLISHED, CARD, MANIFEST))
    bench.store.publish(id, staged)
    return files


def _name_the_base(peft_config: Path, base_model: str) -> None:
    """The model's name instead of its folder on this worker, which means nothing elsewhere."""
    config = json.loads(peft_config.read_text())
    config["base_model_name_or_path"] = base_model
    peft_config.write_text(json.dumps(config, indent=2, sort_keys=True))


def _lineage(id: str, attempt: Attempt) -> dict[str, Any]:
    """Where the adapter comes from."""
    return {
        "adapter_id": id,
        "run_id": attempt.lease.run_id,
        "name": attempt.name,
        "variant": attempt.config.variant,
        "base_model": attempt.config.base_model,
        "config": attempt.config.model_dump(mode="json"),
        "config_sha256": attempt.config.sha256,
        "dataset_sha256": attempt.dataset_sha256,
        "dataset_rows": attempt.dataset_rows,
        "training": read_json(attempt.files.completed),
    }


def _write_manifest(staged: Path, lineage: dict[str, Any]) -> None:
    files = [file.model_dump() for file in describe(staged, (*PUBLISHED, CARD))]
    manifest = {**lineage, "files": files}
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
