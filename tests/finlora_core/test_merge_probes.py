"""What a merged model is measured on."""

import hashlib
from pathlib import Path

import pytest

from finlora_core.datasets.cache import DatasetChecker
from finlora_core.db.models import Run
from finlora_core.merging.probes import OWN, ROWS, find_default, find_probe
from finlora_core.settings import Settings
from tests.support import FORM, write_dataset


@pytest.fixture
def dataset(settings: Settings) -> Path:
    return write_dataset(settings.datasets[0] / "train.jsonl", ROWS + 5)


def taken(settings: Settings, trained_on: Run | None) -> str | None:
    return find_default(trained_on, "local", settings, DatasetChecker()).written


def a_run(path: str, sha256: str) -> Run:
    return Run(config={"dataset_path": path}, dataset_sha256=sha256)


def test_it_is_what_the_adapter_was_trained_on(settings: Settings, dataset: Path) -> None:
    same = hashlib.sha256(dataset.read_bytes()).hexdigest()
    assert taken(settings, a_run("train.jsonl", same)) == "train.jsonl"


def test_else_the_services_own(settings: Settings, dataset: Path) -> None:
    for trained_on in (None, a_run("train.jsonl", "d" * 64), a_run("gone.jsonl", "d" * 64)):
        assert taken(settings, trained_on) is None


def test_the_first_rows_are_taken(settings: Settings, dataset: Path) -> None:
    rows = find_probe("train.jsonl", "local", settings, DatasetChecker()).rows
    assert [row.line for row in rows] == list(range(1, ROWS + 1))


def test_the_services_own_are_sound_and_as_many(settings: Settings) -> None:
    own = find_probe(None, "local", settings, DatasetChecker())
    assert (own.path, own.form, own.facts.rows, len(own.rows)) == (OWN, FORM, ROWS, ROWS)
