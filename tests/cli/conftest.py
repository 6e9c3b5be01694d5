"""The real command against a real API on a port, with a queue that is a list."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from api.main import create_app
from finlora_core.adapters import registry
from finlora_core.adapters.manifest import MANIFEST, PUBLISHED, describe, write_manifest
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.lifecycle import Order
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.settings import Settings
from tests.lora import write_adapter
from tests.server import serving
from tests.support import FACTS, POLICY, ListQueue, make_config, make_key, write_dataset

Finlora = Callable[..., "subprocess.CompletedProcess[str]"]
Publish = Callable[..., Adapter]


@pytest.fixture
def url(settings: Settings, sqlite: Database) -> Iterator[str]:
    """Where an API answers; a dataset `train.jsonl` is in its root."""
    write_dataset(settings.datasets[0] / "train.jsonl")
    app = create_app(
        settings=settings,
        database=sqlite,
        queue=ListQueue(),
        store=AdapterStore(settings.adapters),
    )
    with serving(app) as url:
        yield url


@pytest.fixture
def key(settings: Settings, sqlite: Database) -> str:
    return make_key(sqlite, settings)


@pytest.fixture
def finlora(url: str, key: str, settings: Settings, tmp_path: Path) -> Finlora:
    """Runs `finlora …` in a folder of its own, on the settings of the service at `url`."""
    (tmp_path / "cwd").mkdir()
    variables = {**os.environ, **settings.environment(), "FINLORA_URL": url, "COLUMNS": "80"}
    variables["FINLORA_API_KEY"] = key

    def run(*arguments: object, **more: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", "finlora_core.cli", *map(str, arguments)],
            env={**variables, **more},
            cwd=tmp_path / "cwd",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def publish(settings: Settings, sqlite: Database, tmp_path: Path) -> Publish:
    """Lists an adapter whose run has succeeded; `blob` random bytes make it as large."""
    store = AdapterStore(settings.adapters)

    def publish(name: str = "sentiment", *, blob: int = 0, **keys: object) -> Adapter:
        write_adapter(tmp_path / "output")
        if blob:
            (tmp_path / "output" / "tokenizer.json").write_bytes(os.urandom(blob))
        with sqlite.transaction() as session:
            order = Order(name=name)
            config = make_config(**keys)
            run = lifecycle.create_run(
                session, config, order, dataset=FACTS, validation=None, now=now(session)
            )
            ttl = timedelta(minutes=2)
            lease = lifecycle.claim_next(session, worker="w", now=now(session), ttl=ttl)
            assert lease is not None
            assert lease.run_id == run.id
            id = registry.adapter_id(run.id, lease.attempt)
            staged = store.stage(id, tmp_path / "output")
            write_manifest(staged, {"name": name})
            store.publish(id, staged)
            files = describe(store.folder(id), (*PUBLISHED, MANIFEST))
            completed = AttemptEnd(end=End.COMPLETED)
            lifecycle.finish(session, lease, completed, now=now(session), policy=POLICY)
            return registry.add_adapter(session, queries.get_any_run(session, run.id), id, files)

    return publish
