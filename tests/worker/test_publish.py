"""What is published when a training has ended: checked, described, and shown to work."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finlora_core.adapters.manifest import CARD, CONFIG, MANIFEST, WEIGHTS, sha256_of
from finlora_core.adapters.store import AdapterStore
from finlora_core.adapters.verify import verify
from finlora_core.db.session import Database
from finlora_core.errors import InvalidAdapter
from finlora_core.runs.lifecycle import Lease
from finlora_core.settings import Settings
from finlora_core.training.axolotl import Hardware
from finlora_core.training.files import RunFiles
from tests.bad_adapters import Parts
from tests.lora import LAYER, PROBE, WIDTH, write_adapter
from tests.support import BASE_MODEL, make_config
from worker.bench import Bench
from worker.facts import Training
from worker.publish import publish, require_change
from worker.supervise import AttemptEnded

COMPLETED = {"steps": 7, "metrics": {"train_loss": 0.5, "eval_loss": 0.75}, "probe": PROBE}


@pytest.fixture
def bench(settings: Settings, sqlite: Database) -> Bench:
    store = AdapterStore(settings.adapters)
    return Bench(settings, sqlite, store, Hardware.CPU, owner="w")


@pytest.fixture
def attempt(settings: Settings, base: Path) -> Training:
    """One whose training has just ended well."""
    trained = Training(
        lease=Lease("run_1", 2, "token"),
        owner="local",
        name="sentiment",
        base_model=BASE_MODEL,
        config=make_config(seed=7),
        dataset_sha256="d" * 64,
        dataset_rows=40,
        validation_sha256=None,
        gpus=(),
        seconds_left=float("inf"),
        run_files=RunFiles.of(settings.runs, "run_1"),
        ancestors=(),
        earlier_here=(),
    )
    trained.files.create()
    write_adapter(trained.files.output, base_model_name_or_path="/on/this/worker")
    form = {"format": "[INST] {instruction} [/INST]"}
    trained.files.config.write_text(json.dumps({"datasets": [{"type": form}]}))
    trained.files.completed.write_text(json.dumps(COMPLETED))
    return trained


@pytest.fixture
def base(settings: Settings) -> Path:
    """The run's base model, with one layer."""
    folder = settings.models[0] / BASE_MODEL
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    write_base(folder, WIDTH)
    return folder


def write_base(folder: Path, width: int) -> None:
    import numpy as np

    tensors = {f"{LAYER}.weight": np.zeros((width, width), np.float32)}
    (folder / "model.safetensors").write_bytes(Parts(tensors, {}).weights())


def published(bench: Bench, attempt: Training) -> Path:
    publish(bench, attempt)
    return bench.store.folder("adp_1_2")


def manifest_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return content


def refusal(bench: Bench, attempt: Training) -> str:
    """Why nothing was published."""
    with pytest.raises(AttemptEnded) as caught:
        publish(bench, attempt)
    failure = caught.value.end.failure
    assert failure is not None
    assert failure.code == "invalid_adapter"
    assert bench.store.versions() == []
    return failure.detail


def test_the_manifest_says_where_an_adapter_comes_from(
    bench: Bench, attempt: Training, base: Path
) -> None:
    manifest = manifest_of(published(bench, attempt))
    expected = {
        "schema_version": 1,
        "adapter_id": "adp_1_2",
        "run_id": "run_1",
        "attempt": 2,
        "name": "sentiment",
        "variant": "fp16_r8",
        "base_model": BASE_MODEL,
        "config": attempt.config.model_dump(mode="json"),
        "config_sha256": attempt.config.sha256,
        "dataset_sha256": "d" * 64,
        "dataset_rows": 40,
        "axolotl_yaml_sha256": sha256_of(attempt.files.config),
        "seed": 7,
        "training": {"steps": 7, "metrics": {"train_loss": 0.5, "eval_loss": 0.75}},
        "probe": PROBE,
    }
    assert {key: manifest[key] for key in expected} == expected
    assert {"axolotl", "bitsandbytes", "peft", "torch", "transformers"} <= manifest[
        "packages"
    ].keys()
    assert "threads" in manifest["hardware"]["device"]
    assert manifest["adapter"]["base_compared"]
    assert (manifest["adapter"]["modules"], manifest["adapter"]["changed"]) == (1, 1)


def test_what_is_published_is_sound_and_names_the_base_by_its_name(
    bench: Bench, attempt: Training
) -> None:
    folder = published(bench, attempt)
    assert verify(folder) == []
    assert json.loads((folder / CONFIG).read_text())["base_model_name_or_path"] == BASE_MODEL
    assert (folder / WEIGHTS).read_bytes() == (attempt.files.output / WEIGHTS).read_bytes()


def test_the_card_is_written_from_facts(bench: Bench, attempt: Training) -> None:
    card = (published(bench, attempt) / CARD).read_text()
    for line in (
        f'base_model: "{BASE_MODEL}"',
        "trained by run `run_1`",
        "| rank, alpha | 8, 16 |",
        "| dataset | 40 rows, SHA-256 `dddd",
        "| steps | 7 |",
        "| validation loss | 0.75 |",
        "| same most likely token as the base | 75.0% |",
        "Prompts had the form `[INST] {context} [/INST]`",
        f'AutoModelForCausalLM.from_pretrained("{BASE_MODEL}")',
    ):
        assert line in card
    assert not {"None", "nan", "{}", "licence"} & set(card.split())


BEST = {"step": 4, "metric": "accuracy", "value": 0.8125, "rows": 80}


def judged(attempt: Training, facts: Mapping[str, Any]) -> Training:
    attempt.files.completed.write_text(json.dumps({**COMPLETED, **facts}))
    return replace(attempt, config=make_config(seed=7, evaluation_task="tfns"))


def test_of_a_training_with_a_task_it_is_said_which_step_was_published(
    bench: Bench, attempt: Training
) -> None:
    folder = published(bench, judged(attempt, {"best": BEST}))
    assert json.loads((folder / MANIFEST).read_text())["training"]["best"] == BEST
    said = "| published | step 4 of 7, accuracy 0.8125 on 80 held-out rows |"
    assert said in (folder / CARD).read_text()


@pytest.mark.parametrize("facts", [{}, {"best": {**BEST, "value": "high"}}, {"best": 4}])
def test_a_training_with_a_task_that_does_not_say_its_best_step_fails(
    bench: Bench, attempt: Training, facts: Mapping[str, Any]
) -> None:
    with pytest.raises(AttemptEnded, match="invalid_adapter"):
        publish(bench, judged(attempt, facts))


def test_the_base_is_known_by_its_commit_or_by_what_it_holds(
    bench: Bench, attempt: Training, base: Path
) -> None:
    first = manifest_of(published(bench, attempt))["base_revision"]
    assert first.startswith("sha256:")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")  # another fine-tune, of the same shapes
    bench.store.discard("adp_1_2")
    second = manifest_of(published(bench, attempt))["base_revision"]
    assert second.startswith("sha256:")
    assert second != first
    metadata = base / ".cache" / "huggingface" / "download" / "config.json.metadata"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"{'c' * 40}\netag\n1.0\n")
    bench.store.discard("adp_1_2")
    assert manifest_of(published(bench, attempt))["base_revision"] == "c" * 40


def test_an_adapter_that_does_not_fit_its_base_is_refused(
    bench: Bench, attempt: Training, base: Path
) -> None:
    write_base(base, 2 * WIDTH)
    assert "for a module of shape (64, 64), the base model's has (128, 128)" in refusal(
        bench, attempt
    )


def test_a_link_in_the_place_of_the_weights_is_refused(
    bench: Bench, attempt: Training, tmp_path: Path
) -> None:
    weights = attempt.files.output / WEIGHTS
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in refusal(bench, attempt)


NO_CHANGE: list[tuple[Mapping[str, object] | None, str]] = [
    (None, "has not compared the model with its base"),
    ({}, "has not compared the model with its base"),
    ({**PROBE, "max_abs_difference": 0.0}, "logits are those of its base"),
    ({**PROBE, "max_abs_difference": float("nan")}, "logits are NaN or infinite"),
    ({**PROBE, "kl": float("inf")}, "logits are NaN or infinite"),
    ({**PROBE, "mean_abs_difference": None}, "logits are NaN or infinite"),
]


@pytest.mark.parametrize(("probe", "reason"), NO_CHANGE)
def test_a_model_that_says_the_same_as_its_base_fails_the_run(
    bench: Bench, attempt: Training, probe: Mapping[str, object] | None, reason: str
) -> None:
    attempt.files.completed.write_text(json.dumps({**COMPLETED, "probe": probe}))
    assert reason in refusal(bench, attempt)


def test_a_probe_that_shows_a_change_is_kept_as_it_is() -> None:
    assert require_change(PROBE) == PROBE
    with pytest.raises(InvalidAdapter):
        require_change([])
