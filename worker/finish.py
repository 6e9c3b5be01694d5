"""The end of an attempt: its status and what it has made, or nothing at all."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from finlora_core.adapters import registry
from finlora_core.adapters.manifest import File
from finlora_core.adapters.stable import link_newest
from finlora_core.db.models import MergedModel, Run
from finlora_core.db.session import now
from finlora_core.errors import LeaseLost, NotFound
from finlora_core.merging import results
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.events import tell_published
from finlora_core.runs.lifecycle import Lease
from finlora_core.runs.outcome import AttemptEnd, RetryPolicy
from finlora_core.runs.status import RunStatus
from worker.bench import Bench
from worker.facts import Attempt, Merge, Training
from worker.heartbeat import boottime

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Product:
    """What a run that succeeds leaves behind."""

    store: Callable[[Session, Run], None] = lambda session, run: None
    """In the transaction that ends the run."""
    show: Callable[[], None] = lambda: None
    """After it. The run has succeeded by then: what fails is only said."""


NOTHING = Product()


def adapter_of(bench: Bench, attempt: Training, files: Sequence[File]) -> Product:
    """The published files' row, its event, and then the stable link."""
    id = registry.adapter_id(attempt.lease.run_id, attempt.lease.attempt)

    def store(session: Session, run: Run) -> None:
        tell_published(session, run, registry.add_adapter(session, run, id, files))

    def show() -> None:
        _link_newest(bench, attempt.owner, attempt.config.variant, attempt.name)

    return Product(store, show)


def finish(bench: Bench, attempt: Attempt, end: AttemptEnd, product: Product) -> RunStatus:
    """One transaction: the run's status, what it has made, the events of both."""
    deadline = boottime() + bench.settings.fence_seconds
    while True:
        try:
            status = _try_finish(bench, attempt, end, product)
            break
        except (OperationalError, IntegrityError):
            # the database is away, or another run has just taken the version's number
            if boottime() > deadline:
                raise LeaseLost("the database did not come back in time") from None
            time.sleep(1)
    if status is RunStatus.SUCCEEDED:
        product.show()
    return status


def _link_newest(bench: Bench, owner: str, variant: str, name: str) -> None:
    """The run has succeeded by now: a link that cannot be made is only said."""
    try:
        link_newest(bench.database, bench.store, owner, variant, name)
    except (OSError, SQLAlchemyError) as error:
        logger.warning("lora_adaptors/%s/%s was not linked: %s", variant, name, error)


def _try_finish(bench: Bench, attempt: Attempt, end: AttemptEnd, product: Product) -> RunStatus:
    with bench.database.transaction() as session:
        policy = RetryPolicy.of(bench.settings)
        status = lifecycle.finish(session, attempt.lease, end, now=now(session), policy=policy)
        if status is RunStatus.SUCCEEDED:
            product.store(session, queries.get_any_run(session, attempt.lease.run_id))
    return status


def discard_unlisted(bench: Bench, attempt: Attempt) -> None:
    """Files without a row go; a commit whose answer was lost has made a row, and they stay."""
    match attempt:
        case Training():
            _discard_adapter(bench, attempt.lease)
        case Merge():
            _discard_merged(bench, attempt.lease)


def _discard_adapter(bench: Bench, lease: Lease) -> None:
    id = registry.adapter_id(lease.run_id, lease.attempt)
    with bench.database.reading() as session:
        try:
            adapter = registry.get_any_adapter(session, id)
        except NotFound:
            bench.store.discard(id)
            return
    _link_newest(bench, adapter.owner, adapter.variant, adapter.name)


def _discard_merged(bench: Bench, lease: Lease) -> None:
    id = results.merged_id(lease.run_id, lease.attempt)
    with bench.database.reading() as session:
        if session.get(MergedModel, id) is None:
            bench.merged.discard(id)
