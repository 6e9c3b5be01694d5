"""After training: the checked adapter, with its manifest and card, at its final place."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finlora_core.adapters import base
from finlora_core.adapters.card import card
from finlora_core.adapters.check import check_adapter, check_folder
from finlora_core.adapters.manifest import (
    CARD,
    CONFIG,
    MANIFEST,
    PUBLISHED,
    File,
    describe,
    sha256_of,
    write_manifest,
)
from finlora_core.adapters.peft_config import name_the_base
from finlora_core.adapters.registry import adapter_id
from finlora_core.errors import InvalidAdapter
from finlora_core.training.best import Judgement
from finlora_core.training.diagnose import FailureCode
from worker.base_model import find_local
from worker.bench import Bench
from worker.facts import Training
from worker.machine import describe_hardware, packages
from worker.prepare import failed
from worker.tail import read_json

Facts = Mapping[str, Any]


def publish(bench: Bench, attempt: Training) -> Sequence[File]:
    """The files of the new version, whole and on disk; no row lists them yet.

    Raises `AttemptEnded` when what training left is not a sound adapter.
    """
    id = adapter_id(attempt.lease.run_id, attempt.lease.attempt)
    try:
        check_folder(attempt.files.output)
        staged = bench.store.stage(id, attempt.files.output)
        facts = {**_lineage(id, bench, attempt), **_checked(staged, bench, attempt)}
    except InvalidAdapter as error:
        bench.store.discard_staged(id)
        raise failed(FailureCode.INVALID_ADAPTER, detail=str(error)) from None
    name_the_base(staged / CONFIG, attempt.config.base_model)
    (staged / CARD).write_text(card(facts))
    write_manifest(staged, facts)
    files = describe(staged, (*PUBLISHED, CARD, MANIFEST))
    bench.store.publish(id, staged)
    return files


def _checked(staged: Path, bench: Bench, attempt: Training) -> Facts:
    """What the checks have seen, of the copy: what is checked is what is published.

    Raises `InvalidAdapter`.
    """
    folder = find_local(attempt.config.base_model, bench.settings)
    modules = base.read_modules(folder) if folder else None
    sound = check_adapter(staged, attempt.config, modules)
    training = dict(read_json(attempt.files.completed) or {})
    probe = require_change(training.pop("probe", None))
    if attempt.config.evaluation_task is not None:
        _require_best(training.get("best"))
    return {
        "adapter": sound.facts(attempt.config.quant_bits),
        "training": training,
        "probe": probe,
        **(base.describe(folder) if folder else {}),
    }


def _require_best(best: object) -> None:
    """Raises `InvalidAdapter` unless it is known which step's adapter this is."""
    try:
        Judgement.model_validate(best)
    except ValidationError:
        raise InvalidAdapter("the training process has not said which step was best") from None


def require_change(probe: object) -> Facts:
    """What the plugin measured while the model was in memory, adapter on and off.

    Raises `InvalidAdapter` unless it shows that the adapter changes what the model says.
    """
    if not isinstance(probe, dict) or not probe.keys() >= _NUMBERS:
        raise InvalidAdapter("the training process has not compared the model with its base")
    if not all(_is_finite(probe[key]) for key in _NUMBERS):
        raise InvalidAdapter("with the adapter the model's logits are NaN or infinite")
    if probe["max_abs_difference"] == 0:
        raise InvalidAdapter("with the adapter the model's logits are those of its base")
    return probe


_NUMBERS = {"max_abs_difference", "mean_abs_difference", "kl", "top1_agreement"}


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _lineage(id: str, bench: Bench, attempt: Training) -> Facts:
    """Where the adapter comes from. Its version is not among it: the row's commit decides that."""
    config = attempt.config
    rendered = yaml.safe_load(attempt.files.config.read_bytes())
    return {
        "adapter_id": id,
        "run_id": attempt.lease.run_id,
        "attempt": attempt.lease.attempt,
        "name": attempt.name,
        "variant": config.variant,
        "base_model": config.base_model,
        "config": config.model_dump(mode="json"),
        "config_sha256": config.sha256,
        "dataset_sha256": attempt.dataset_sha256,
        "dataset_rows": attempt.dataset_rows,
        "axolotl_yaml_sha256": sha256_of(attempt.files.config),
        "prompt": rendered["datasets"][0]["type"],
        "seed": config.seed,
        "packages": packages(),
        "hardware": describe_hardware(bench.hardware, attempt.gpus),
    }
