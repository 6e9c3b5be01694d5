"""An API over a real database of each kind, with a queue that is a list."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from finlora_core.adapters import registry
from finlora_core.adapters.manifest import PUBLISHED, describe
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.lifecycle import Order
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.settings import Settings
from tests.answers import answer
from tests.lora import write_adapter
from tests.support import (
    FACTS,
    POLICY,
    ListQueue,
    bearer,
    make_config,
    make_key,
    write_dataset,
)

ROWS = 40
RIGHT = ["positive"] * ROWS
WRONG = ["negative"] * 30 + ["positive"] * 10

Publish = Callable[..., Adapter]
Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def queue() -> ListQueue:
    return ListQueue()


@pytest.fixture
def store(settings: Settings) -> AdapterStore:
    return AdapterStore(settings.adapters)


@pytest.fixture
def dataset(settings: Settings) -> Path:
    return write_dataset(settings.datasets[0] / "train.jsonl")


@pytest.fixture
def client(
    settings: Settings, database: Database, queue: ListQueue, store: AdapterStore, dataset: Path
) -> Iterator[TestClient]:
    app = create_app(settings=settings, database=database, queue=queue, store=store)
    headers = bearer(make_key(database, settings))
    with TestClient(app, raise_server_exceptions=False, headers=headers) as client:
        yield client


@pytest.fixture
def publish(database: Database, store: AdapterStore, tmp_path: Path) -> Publish:
    """Publishes an adapter, of a run that has succeeded."""

    def publish(name: str = "sentiment") -> Adapter:
        write_adapter(tmp_path / "output")
        with database.transaction() as session:
            order = Order(name=name)
            lifecycle.create_run(session, make_config(), order, dataset=FACTS, now=now(session))
            ttl = timedelta(minutes=2)
            lease = lifecycle.claim_next(session, worker="w", now=now(session), ttl=ttl)
            assert lease is not None
            id = registry.adapter_id(lease.run_id, lease.attempt)
            store.publish(id, store.stage(id, tmp_path / "output"))
            files = describe(store.folder(id), PUBLISHED)
            completed = AttemptEnd(end=End.COMPLETED)
            lifecycle.finish(session, lease, completed, now=now(session), policy=POLICY)
            run = queries.get_any_run(session, lease.run_id)
            return registry.add_adapter(session, run, id, files)

    return publish


@pytest.fixture
def adapter(publish: Publish) -> Adapter:
    return publish()


@pytest.fixture
def evaluate(client: TestClient, database: Database, settings: Settings) -> Evaluate:
    """Posts an evaluation on 40 rows whose answer is `positive`, and ends it with these answers,
    a list a model; as the API shows it then."""

    def evaluate(*answers: Sequence[str], file: str = "tfns_test.jsonl", **keys: Any) -> Any:
        path = settings.datasets[0] / file
        if not path.exists():
            rows = ({"context": f"{file} {n}.", "target": "positive"} for n in range(ROWS))
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        id = client.post("/evaluations", json={"tasks": [{"task": "tfns"}], **keys}).json()["id"]
        answer(database, settings, id, *answers)
        return client.get(f"/evaluations/{id}").json()

    return evaluate
