"""A base model that is not at hand comes from the hub: here a small one on this machine."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from finlora_core.db.models import Run
from finlora_core.runs.status import RunStatus
from tests.worker.conftest import GOOD, BenchWith
from tests.worker.hub import COMMIT, TOKEN, WANTED, Hub
from worker.attempt import work_until_idle
from worker.bench import Bench


@pytest.fixture
def bench(bench_with: BenchWith, hub: Hub, model: Path, tmp_path: Path) -> Bench:
    """A bench whose models folder lacks the run's base model."""
    model.rename(tmp_path / "away")
    bench = bench_with(GOOD)
    settings = bench.settings.model_copy(
        update={"hf_endpoint": hub.url, "hf_token": SecretStr(TOKEN)}
    )
    return replace(bench, settings=settings)


def test_a_missing_base_model_is_fetched_once_and_kept(
    bench: Bench, hub: Hub, run_id: str, seen: Callable[[], Run]
) -> None:
    work_until_idle(bench)
    run = seen()
    assert run.status is RunStatus.SUCCEEDED, (run.error_code, run.error_log)
    folder = bench.settings.home / "hub" / "finlora" / "tiny-llama"
    assert {path.name for path in folder.iterdir()} == {*WANTED, ".cache"}
    assert f"base_model: {folder}" in (run.axolotl_yaml or "")


def test_pickled_weights_are_never_fetched(bench: Bench, hub: Hub, run_id: str) -> None:
    work_until_idle(bench)
    assert hub.served == WANTED


def test_the_manifest_names_the_hubs_commit_and_the_licence(
    bench: Bench, hub: Hub, run_id: str
) -> None:
    work_until_idle(bench)
    (path,) = bench.settings.adapters.glob("fp16_r8/*/manifest.json")
    manifest = json.loads(path.read_text())
    assert (manifest["base_revision"], manifest["base_license"]) == (COMMIT, "llama3.1")


def test_the_token_goes_to_the_hub_and_into_no_log(
    bench: Bench, hub: Hub, run_id: str, seen: Callable[[], Run]
) -> None:
    hub.refusal = (403, "GatedRepo")
    work_until_idle(bench)
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in (seen().error_log or "")


@pytest.mark.parametrize(
    ("status", "code", "failure"),
    [
        (403, "GatedRepo", "gated_model"),
        (401, "GatedRepo", "gated_model"),
        (404, "RepoNotFound", "base_model_not_found"),
        (401, "RepoNotFound", "base_model_not_found"),
    ],
)
def test_what_the_hub_refuses_fails_the_run_with_its_reason(
    bench: Bench,
    hub: Hub,
    run_id: str,
    seen: Callable[[], Run],
    status: int,
    code: str,
    failure: str,
) -> None:
    hub.refusal = (status, code)
    work_until_idle(bench)
    run = seen()
    assert (run.status, run.error_code) == (RunStatus.FAILED, failure)
    assert "finlora/tiny-llama" in (run.error_hint or "")
    assert not (bench.settings.home / "hub" / "finlora" / "tiny-llama").exists()
