"""The unmodified `openai` package, in three releases, against a live server."""

import os
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from api.main import create_app
from finlora_core.access.quota import Quota
from finlora_core.access.scopes import Scope
from finlora_core.adapters import registry
from finlora_core.adapters.manifest import PUBLISHED, describe
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database, now
from finlora_core.runs import journal, lifecycle, queries
from finlora_core.runs.lifecycle import Order
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.settings import Settings
from tests.api.openai.conftest import RELEASES, python_with
from tests.lora import write_adapter
from tests.server import serving
from tests.support import BASE_MODEL, FACTS, POLICY, ListQueue, make_config, make_key

DRIVE = Path(__file__).parent / "drive.py"


@pytest.fixture
def url(settings: Settings, sqlite: Database) -> Iterator[str]:
    model = settings.models[0] / BASE_MODEL
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    store = AdapterStore(settings.adapters)
    app = create_app(settings=settings, database=sqlite, queue=ListQueue(), store=store)
    with serving(app) as url:
        yield url


@pytest.fixture
def finished(settings: Settings, sqlite: Database, tmp_path: Path) -> str:
    """The id of a job that has trained: what a worker writes, without the training."""
    store, ttl = AdapterStore(settings.adapters), timedelta(minutes=2)
    write_adapter(tmp_path / "output")
    with sqlite.transaction() as session:
        order = Order(name="sentiment")
        lifecycle.create_run(session, make_config(), order, dataset=FACTS, now=now(session))
        lease = lifecycle.claim_next(session, worker="w", now=now(session), ttl=ttl)
        assert lease is not None
        points = [{"step": 5, "loss": 0.5}, {"step": 5, "eval_loss": 0.75}]
        journal.append_metrics(session, lease.run_id, 1, points)
        lifecycle.renew(session, lease, now=now(session), ttl=ttl, checkpoint_step=5)
        last = {"step": 6, "loss": 0.25, "tokens/total": 1234}
        journal.append_metrics(session, lease.run_id, 1, [last])
        id = registry.adapter_id(lease.run_id, lease.attempt)
        store.publish(id, store.stage(id, tmp_path / "output"))
        completed = AttemptEnd(end=End.COMPLETED)
        lifecycle.finish(session, lease, completed, now=now(session), policy=POLICY)
        files = describe(store.folder(id), PUBLISHED)
        registry.add_adapter(session, queries.get_any_run(session, lease.run_id), id, files)
    return lease.run_id.replace("run_", "ftjob-")


@pytest.mark.parametrize("release", RELEASES)
def test_the_openai_package_works_unchanged(
    url: str, finished: str, release: str | None, settings: Settings, sqlite: Database
) -> None:
    keys = (
        make_key(sqlite, settings),
        make_key(sqlite, settings, scopes=[Scope.DATASETS_READ]),
        make_key(sqlite, settings, owner="stranger"),
        make_key(sqlite, settings, owner="poor", quota=Quota(max_queued_runs=0)),
    )
    done = subprocess.run(
        [str(python_with(release)), str(DRIVE), url, *keys, BASE_MODEL, finished],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "PYTHONWARNINGS": "error::DeprecationWarning:__main__"},
    )
    assert done.returncode == 0, done.stderr
    assert (release or "openai 3.") in done.stdout
