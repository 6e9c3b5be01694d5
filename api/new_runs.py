"""A request becomes a run of any kind: what POST /runs, evaluations, merges and jobs do alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

from anyio.to_thread import run_sync
from fastapi import Depends, Request, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.audit import Audit, audit_of
from api.idempotency import IdempotencyKey, Once, once_of
from api.json import as_json
from api.looks import Looks, Work
from api.queue import WorkerQueue
from finlora_core.access.keys import Caller
from finlora_core.audit.action import Action
from finlora_core.datasets.cache import DatasetChecker
from finlora_core.db.models import Run
from finlora_core.db.session import Database
from finlora_core.idempotency import Made
from finlora_core.runs import posting, queries
from finlora_core.runs.kind import RunKind
from finlora_core.settings import Settings

Data = TypeVar("Data")
"""What the run is about, looked at before the transaction."""

Read = TypeVar("Read", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class NewRun(Generic[Data, Read]):
    """One that is asked for."""

    caller: Caller
    action: Action
    create: Callable[[Session, Data, datetime], Run]
    read: Callable[[Session, Run], Read]
    kind: RunKind = RunKind.TRAINING
    told: Mapping[str, Any] = field(default_factory=dict)
    """For the audit log, beside its name."""


@dataclass(frozen=True)
class NewRuns:
    """Where new runs go, for one request. One dependency instead of seven: FastAPI takes its time
    for each."""

    settings: Settings
    datasets: DatasetChecker
    audit: Audit
    _database: Database
    _looks: Looks
    _queue: WorkerQueue
    _once: Once

    async def make(
        self,
        run: NewRun[Data, Read],
        check: Callable[[], Data],
        recall: Callable[[], Data | None] | None = None,
    ) -> Read:
        """Stored and offered, or what an earlier request with the same key has made.

        `check` may take its time. `recall` answers at once, with None where it cannot.
        """
        found = await self._looks.change(partial(self._recalled, run, recall)) if recall else None
        if found is None:  # nobody else is to wait while this one's files are read
            data = await run_sync(check)
            found = await self._looks.change(lambda: partial(self._store, run, data))
        made, read = found
        if made.is_new and not self._queue.is_full:  # nor while the broker is asked
            await run_sync(posting.offer, self._database, self._queue, made.id)
        return read

    def answer(self, read: BaseModel, location: str) -> Response:
        headers = self._once.response.headers
        headers["Location"] = location
        return as_json(read, status=201, headers=headers)

    def _recalled(
        self, run: NewRun[Data, Read], recall: Callable[[], Data | None]
    ) -> Work[tuple[Made, Read] | None]:
        data = recall()
        return _nothing if data is None else partial(self._store, run, data)

    def _store(
        self, run: NewRun[Data, Read], data: Data, session: Session, at: datetime
    ) -> tuple[Made, Read]:
        stored = None

        def create() -> str:
            nonlocal stored
            stored = run.create(session, data, at)
            self.audit.note(
                session, run.caller, run.action, stored.id, now=at, name=stored.name, **run.told
            )
            return stored.id

        made = self._once.make(session, run.caller.owner, create, now=at)
        stored = stored or queries.get_run(session, run.caller.owner, made.id, run.kind)
        return made, run.read(session, stored)


def _nothing(session: Session, at: datetime) -> None:
    """There is nothing to store yet."""


async def _new_runs(
    request: Request, response: Response, idempotency_key: IdempotencyKey = None
) -> NewRuns:
    state = request.app.state
    once = await once_of(request, response, idempotency_key)
    return NewRuns(
        state.settings,
        state.datasets,
        audit_of(request),
        state.database,
        state.looks,
        state.queue,
        once,
    )


NewRunsDep = Annotated[NewRuns, Depends(_new_runs)]
