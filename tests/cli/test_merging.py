"""`finlora adapters merge`, and what it has brought."""

import threading
from pathlib import Path

import pytest

from finlora_core.db.session import Database
from finlora_core.merging.results import merges_of
from finlora_core.runs import queries
from finlora_core.runs.kind import RunKind
from finlora_core.settings import Settings
from tests.cli.conftest import Finlora, Publish
from tests.merges import end_merge
from tests.support import eventually


def waiting(database: Database) -> list[str]:
    with database.reading() as session:
        page = queries.list_runs(
            session, "local", kind=RunKind.MERGE, status=None, name=None, cursor=None, limit=9
        )
    return [run.id for run in page.rows]


@pytest.fixture
def cwd(finlora: Finlora, tmp_path: Path) -> Path:
    return tmp_path / "cwd"


def test_a_merge_is_followed_to_its_figures_and_its_model_is_pulled(
    finlora: Finlora, publish: Publish, sqlite: Database, settings: Settings, cwd: Path
) -> None:
    adapter = publish()
    lines: list[str] = []
    command = threading.Thread(
        target=lambda: lines.extend(
            finlora(
                "adapters", "merge", "sentiment", "--max-kl", "0.001", "--override", "a demo"
            ).stdout.splitlines()
        )
    )
    command.start()
    assert eventually(lambda: bool(waiting(sqlite)))
    (id,) = waiting(sqlite)
    end_merge(sqlite, settings, id)
    command.join(60)
    assert any("0.004 nats a token, over 40 tokens" in line for line in lines), lines
    assert any("above 0.001; a demo" in line for line in lines)
    assert f"adapters pull {adapter.id} --merged" in lines[-1]
    with sqlite.reading() as session:
        assert merges_of(session, adapter.id) == [id]
    done = finlora("adapters", "pull", adapter.id, "--merged")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (cwd / "sentiment-v1-merged").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


def test_without_waiting_it_is_looked_at_and_cancelled_by_its_id(
    finlora: Finlora, publish: Publish, sqlite: Database
) -> None:
    publish()
    posted = finlora("adapters", "merge", "sentiment", "--no-wait").stdout
    (id,) = waiting(sqlite)
    assert f"finlora status {id}" in posted
    assert "queued" in finlora("status", id).stdout
    assert "cancelled" in finlora("cancel", id).stdout
    assert finlora("logs", id).returncode == 0


def test_what_was_never_merged_cannot_be_pulled(finlora: Finlora, publish: Publish) -> None:
    adapter = publish()
    refused = finlora("adapters", "pull", "sentiment", "--merged")
    assert refused.returncode == 1
    assert f"finlora adapters merge {adapter.id}" in refused.stderr


def test_limits_that_make_no_sense_are_refused(finlora: Finlora, publish: Publish) -> None:
    publish()
    assert finlora("adapters", "merge", "sentiment", "--min-top1", "2").returncode == 2
