"""The application on a port of its own, with something in it to ask for."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.main import create_app
from finlora_core.access.scopes import OWN
from finlora_core.adapters import registry
from finlora_core.adapters.manifest import MANIFEST, PUBLISHED, describe, write_manifest
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.migrate import migrate
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.config import RunConfig
from finlora_core.runs.lifecycle import Order
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.settings import Settings
from tests.lora import write_adapter
from tests.support import (
    FACTS,
    POLICY,
    ListQueue,
    eventually,
    make_config,
    make_key,
    write_dataset,
)


def publish(
    database: Database, store: AdapterStore, output: Path, config: RunConfig | None = None
) -> Adapter:
    """A published adapter, made in `output` unless there is one, with a run that has succeeded."""
    if not output.exists():
        write_adapter(output)
    with database.transaction() as session:
        order = Order(name="sentiment")
        run = lifecycle.create_run(
            session,
            config or make_config(),
            order,
            dataset=FACTS,
            validation=None,
            now=now(session),
        )
        ttl = timedelta(minutes=2)
        lease = lifecycle.claim_next(session, worker="w", now=now(session), ttl=ttl)
        assert lease is not None
        id = registry.adapter_id(run.id, lease.attempt)
        staged = store.stage(id, output)
        write_manifest(staged, {"name": run.name})
        store.publish(id, staged)
        files = describe(store.folder(id), (*PUBLISHED, MANIFEST))
        completed = AttemptEnd(end=End.COMPLETED)
        lifecycle.finish(session, lease, completed, now=now(session), policy=POLICY)
        return registry.add_adapter(session, queries.get_any_run(session, run.id), id, files)


@dataclass
class Counted:
    """An application, and how often it gave which status."""

    app: ASGIApp
    statuses: Counter[int] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses[message["status"]] += 1
            await send(message)

        await self.app(scope, receive, note if scope["type"] == "http" else send)

    @property
    def failed(self) -> int:
        """How many answers were 5xx."""
        return sum(count for status, count in self.statuses.items() if status >= 500)


@dataclass(frozen=True)
class Service:
    url: str
    key: str
    """With all scopes."""
    key_without_admin: str
    counted: Counted


@contextmanager
def serving(settings: Settings) -> Iterator[Service]:
    """The application on a port, with a dataset, a run and its published adapter."""
    with ExitStack() as stack:
        database = stack.enter_context(closing(Database.connect(settings.database)))
        migrate(database)
        store = AdapterStore(settings.adapters)
        write_dataset(settings.datasets[0] / "train.jsonl")
        publish(database, store, settings.home / "output")
        own = make_key(database, settings, scopes=OWN)
        key = make_key(database, settings)
        app = create_app(settings=settings, database=database, queue=ListQueue(), store=store)
        counted = Counted(app)
        door = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = uvicorn.Server(uvicorn.Config(counted, log_level="error"))
        thread = threading.Thread(target=server.run, args=([door],))
        thread.start()
        try:
            if not eventually(lambda: server.started):
                raise RuntimeError("the server did not start")
            yield Service(f"http://127.0.0.1:{door.getsockname()[1]}", key, own, counted)
        finally:
            server.should_exit = True
            thread.join()
