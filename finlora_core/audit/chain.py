"""Number the entries, chain them, and find out whether somebody has been at them.

Not in the transactions that write entries: a chain's end is one row, and all writers would wait
for each other there. A sealer comes after them every few seconds.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from finlora_core.audit.kept import Seal, keep
from finlora_core.audit.signing import NOTHING, is_same, key_of, said_by, seal, sign, sign_head
from finlora_core.db.models import AuditEntry, AuditHead
from finlora_core.db.session import Database, now

logger = logging.getLogger(__name__)

AT_ONCE = 1000
FEW = 10
"""Entries: enough to know whether there is work, unless somebody forged them."""

OLD = timedelta(minutes=5)
"""Whatever is not sealed by then is not left to the sealer."""

_UNSEALED = AuditEntry.number.is_(None)
_NEWEST = select(func.max(AuditEntry.number)).where(AuditEntry.number.is_not(None))
"""Said, since SQLite uses a partial index only where it reads the index's condition."""


@dataclass(frozen=True)
class Verdict:
    """What was read, and the first thing that is wrong."""

    head: Seal
    fault: str | None


class Sealer:
    """A duty of the reconciler. Any number of processes may do so."""

    def __init__(self, database: Database, pepper: bytes, file: Path) -> None:
        """The newest seal is kept in `file` as well."""
        self._database = database
        self._file = file
        self._key = key_of(pepper)

    def __call__(self) -> None:
        while self._has_work():
            with self._database.transaction() as session:
                head = seal_next(session, self._key, now=now(session))
            keep(self._file, head)
            logger.info("the audit log is sealed: %s", head)

    def _has_work(self) -> bool:
        with self._database.reading() as session:
            return any(
                _is_signed(self._key, entry)
                for limit in (FEW, AT_ONCE)
                for entry in session.scalars(_unsealed(limit))
            )


def seal_next(session: Session, key: bytes, *, now: datetime) -> Seal:
    """The oldest that have no place yet get theirs; what is not ours never does."""
    head = session.scalars(select(AuditHead).with_for_update()).one()
    for entry in session.scalars(_unsealed(AT_ONCE)).all():
        if not _is_signed(key, entry):
            logger.error("audit entry id %d was edited, or is not this service's", entry.id)
            continue
        entry.number = head.number + 1
        entry.seal = seal(key, head.seal, entry.number, entry.signature)
        head.number, head.seal = entry.number, entry.seal
    head.at, head.signature = now, sign_head(key, head)
    session.flush()
    return Seal(head.number, head.seal)


def verify(
    session: Session, pepper: bytes, *, now: datetime, known: Sequence[Seal] = ()
) -> Verdict:
    """Reads all of it. `known` are seals that were kept elsewhere."""
    key = key_of(pepper)
    head = session.scalars(select(AuditHead)).one()
    upto = Seal(head.number, head.seal)
    if head.number and not is_same(head.signature, sign_head(key, head)):
        return Verdict(upto, "the head was edited: its signature is not this service's")
    return Verdict(upto, next(_faults(session, key, upto, now, known), None))


def _faults(
    session: Session, key: bytes, head: Seal, now: datetime, known: Sequence[Seal]
) -> Iterator[str]:
    last = Seal(0, NOTHING)
    for entry in _sealed(session, head.number):
        yield from _faults_of(key, last, entry)
        last = Seal(last.number + 1, entry.seal or NOTHING)
        for kept in known:
            if kept.number == last.number and kept.seal != last.seal:
                yield f"entry {last.number} is not the one that was sealed as {kept.seal}"
    if last.number < head.number:
        yield f"entries {last.number + 1} to {head.number}, the newest, were deleted"
    if last.seal != head.seal:
        yield f"entry {last.number} is not the one that the head tells of"
    newest = max((kept.number for kept in known), default=0)
    if newest > head.number:
        yield f"entries {head.number + 1} to {newest}, which were sealed once, are not there"
    yield from _faults_past(session, key, now)


def _faults_of(key: bytes, before: Seal, entry: AuditEntry) -> Iterator[str]:
    number = before.number + 1
    if entry.number != number:
        yield f"entry {number} was deleted"
    if not _is_signed(key, entry):
        yield f"entry {number} (id {entry.id}) was edited, or was not written by this service"
    if not is_same(entry.seal or "", seal(key, before.seal, number, entry.signature)):
        yield f"entry {number} (id {entry.id}) is not the one that was sealed here"


def _faults_past(session: Session, key: bytes, now: datetime) -> Iterator[str]:
    """In what no seal holds yet."""
    head = session.scalars(select(AuditHead).execution_options(populate_existing=True)).one()
    newest = session.scalar(_NEWEST) or 0
    if newest > head.number:  # the sealer may have gone on meanwhile, but not past its head
        yield f"the head was set back: it tells of {head.number} entries, there are {newest}"
    for entry in session.scalars(_unsealed(AT_ONCE)):
        if not _is_signed(key, entry):
            yield f"the entry with id {entry.id} was edited, or was not written by this service"
        if entry.at < now - OLD:
            yield f"the entry with id {entry.id} is of {entry.at:%Y-%m-%d %H:%M}, and not sealed"


def _is_signed(key: bytes, entry: AuditEntry) -> bool:
    return is_same(entry.signature, sign(key, said_by(entry)))


def _sealed(session: Session, upto: int) -> Iterator[AuditEntry]:
    """In pages: a cursor of the server's would be left open by who stops at the first fault."""
    entries = select(AuditEntry).where(AuditEntry.number <= upto).order_by(AuditEntry.number)
    page = session.scalars(entries.limit(AT_ONCE)).all()
    while page:
        yield from page
        page = session.scalars(
            entries.where(AuditEntry.number > page[-1].number).limit(AT_ONCE)
        ).all()


def _unsealed(limit: int) -> Select[AuditEntry]:
    return select(AuditEntry).where(_UNSEALED).order_by(AuditEntry.id).limit(limit)
