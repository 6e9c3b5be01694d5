"""The audit log in both databases: nothing in it can be changed without being found out."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError

from finlora_core.audit import chain, log
from finlora_core.audit.action import Action
from finlora_core.audit.chain import OLD, Sealer
from finlora_core.audit.kept import Seal, kept_file, read_kept
from finlora_core.audit.log import Actor, Filters
from finlora_core.db.models import AuditHead
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.support import NOON

Seals = Callable[[Database], None]

PEPPER = b"p" * 32
ANN = Actor("ann", "key", "request")


def write(database: Database, *names: str, pepper: bytes = PEPPER) -> None:
    with database.transaction() as session:
        for name in names:
            log.note(session, pepper, ANN, Action.RUN_CREATED, name, now=NOON, name=name, n=1)


def fault(database: Database, *known: Seal, after: timedelta = timedelta()) -> str:
    with database.reading() as session:
        verdict = chain.verify(session, PEPPER, now=NOON + after, known=known)
    return verdict.fault or ""


def head(database: Database) -> Seal:
    with database.reading() as session:
        return chain.verify(session, PEPPER, now=NOON).head


@pytest.fixture
def seal(settings: Settings) -> Seals:
    def seal(database: Database) -> None:
        Sealer(database, PEPPER, kept_file(settings))()

    return seal


def run_sql(database: Database, *statements: str) -> None:
    with database.engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
        connection.commit()


def tamper(database: Database, *statements: str) -> None:
    """As somebody who owns the database, but has not the pepper."""
    of = "" if database.engine.dialect.name == "sqlite" else " ON audit_log"
    drop = [f"DROP TRIGGER audit_log_no_{what}{of}" for what in ("update", "delete")]
    run_sql(database, *drop, *statements)


@pytest.fixture
def sealed(database: Database, seal: Seals) -> Database:
    """Five entries."""
    write(database, "a", "b", "c")
    seal(database)
    write(database, "d", "e")
    seal(database)
    return database


def test_an_untouched_log_is_whole_and_each_seal_holds_all_before_it(
    sealed: Database, seal: Seals
) -> None:
    assert head(sealed).number == 5
    assert fault(sealed, after=timedelta(days=9)) == ""
    early = head(sealed)
    write(sealed, "f")
    seal(sealed)
    assert head(sealed).number == 6
    assert fault(sealed, early) == ""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET owner = 'ben' WHERE number = 3",
        "UPDATE audit_log SET number = NULL, seal = NULL WHERE number = 3",
        "DELETE FROM audit_log WHERE number = 3",
        "DELETE FROM audit_log",
    ],
)
def test_the_database_refuses_to_change_what_is_written(sealed: Database, statement: str) -> None:
    with pytest.raises(DBAPIError, match="append-only"):
        run_sql(sealed, statement)
    assert fault(sealed) == ""


def test_nor_is_an_entry_changed_before_it_is_sealed(database: Database, seal: Seals) -> None:
    write(database, "a")
    for statement in ("UPDATE audit_log SET owner = 'ben'", "DELETE FROM audit_log"):
        with pytest.raises(DBAPIError, match="append-only"):
            run_sql(database, statement)
    seal(database)
    assert (head(database).number, fault(database)) == (1, "")


SWAP = """UPDATE audit_log SET object_id = CASE number WHEN 2 THEN 'c' ELSE 'b' END,
  details = (SELECT details FROM audit_log AS o WHERE o.number = 5 - audit_log.number),
  signature = (SELECT signature FROM audit_log AS o WHERE o.number = 5 - audit_log.number)
  WHERE number IN (2, 3)"""
RENUMBER = [
    "DELETE FROM audit_log WHERE number = 2",
    "UPDATE audit_log SET number = 2 WHERE number = 3",
    "UPDATE audit_log SET number = 3 WHERE number = 4",
    "UPDATE audit_log SET number = 4 WHERE number = 5",
]
COPY_FIRST_TO_6 = """INSERT INTO audit_log
  (at, owner, key_id, action, object_id, request_id, details, signature, number, seal)
  SELECT at, owner, key_id, action, object_id, request_id, details, signature, 6, 'seal'
  FROM audit_log WHERE number = 1"""


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (["UPDATE audit_log SET object_id = 'x' WHERE number = 3"], "entry 3 .*was edited"),
        (["UPDATE audit_log SET at = '2026-01-01 13:00:00+00' WHERE number = 3"], "entry 3 "),
        (["UPDATE audit_log SET details = '{}' WHERE number = 1"], "entry 1 .*was edited"),
        (["UPDATE audit_log SET key_id = NULL WHERE number = 5"], "entry 5 .*was edited"),
        (["UPDATE audit_log SET seal = 'x' WHERE number = 2"], "entry 2 .*sealed here"),
        (["DELETE FROM audit_log WHERE number = 3"], "entry 3 was deleted"),
        (["DELETE FROM audit_log WHERE number = 1"], "entry 1 was deleted"),
        (["DELETE FROM audit_log WHERE number > 3"], "entries 4 to 5, the newest, were deleted"),
        (["DELETE FROM audit_log"], "entries 1 to 5"),
        ([SWAP], "entry 2 .*is not the one that was sealed here"),
        (RENUMBER, "entry 2 .*is not the one that was sealed here"),
        ([*RENUMBER, "UPDATE audit_head SET number = 4"], "the head was edited"),
        ([COPY_FIRST_TO_6], "the head was set back"),
        (
            [
                "DELETE FROM audit_log WHERE number > 3",
                "UPDATE audit_head SET number = 3, "
                "seal = (SELECT seal FROM audit_log WHERE number = 3)",
            ],
            "the head was edited",
        ),
    ],
)
def test_what_somebody_did_to_the_log_is_found(
    sealed: Database, statements: list[str], found: str
) -> None:
    tamper(sealed, *statements)
    told = fault(sealed)
    assert re.search(found, told), told


def test_an_old_head_put_back_is_found_by_a_seal_that_was_kept(
    sealed: Database, seal: Seals
) -> None:
    """Who has copied the head while it was there can put it back, tail and all."""
    with sealed.engine.connect() as connection:
        old = connection.execute(text("SELECT number, seal, signature FROM audit_head")).one()
    write(sealed, "f")
    seal(sealed)
    kept = head(sealed)
    tamper(sealed, "DELETE FROM audit_log WHERE number > 5")
    with sealed.transaction() as session:
        session.execute(update(AuditHead).values(**old._mapping))
    assert fault(sealed) == ""
    assert fault(sealed, kept) == "entries 6 to 6, which were sealed once, are not there"
    assert fault(sealed, Seal(2, "0" * 64)).startswith("entry 2 is not the one")


def test_an_entry_that_nobody_seals_is_told_once_it_is_old(
    database: Database, seal: Seals
) -> None:
    write(database, "a")
    assert fault(database, after=OLD) == ""
    assert "not sealed" in fault(database, after=OLD + timedelta(seconds=1))
    tamper(database)
    seal(database)
    run_sql(database, "UPDATE audit_log SET number = NULL, seal = NULL")
    assert "entries 1 to 1" in fault(database)


def test_what_this_service_has_not_written_is_never_sealed(sealed: Database, seal: Seals) -> None:
    write(sealed, "forged", pepper=b"q" * 32)
    write(sealed, "g")
    seal(sealed)
    assert head(sealed).number == 6
    assert "was not written by this service" in fault(sealed)


def test_sealers_and_writers_at_once_make_one_whole_chain(database: Database, seal: Seals) -> None:
    def work(number: int) -> None:
        write(database, f"run_{number}")
        seal(database)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    seal(database)
    assert (head(database).number, fault(database)) == (40, "")


def test_an_entry_goes_with_what_it_tells_of(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as session:
            log.note(session, PEPPER, ANN, Action.RUN_CREATED, "a", now=NOON)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.reading() as session:
        assert log.list_entries(session, Filters(), limit=9) == []


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (Filters(), "edcba"),
        (Filters(object_id="c"), "c"),
        (Filters(owner="ben"), ""),
        (Filters(key_id="key", action=Action.RUN_CREATED), "edcba"),
        (Filters(action=Action.KEY_CREATED), ""),
    ],
)
def test_the_log_is_read_newest_first_by_who_what_and_where(
    sealed: Database, filters: Filters, found: str
) -> None:
    with sealed.reading() as session:
        rows = log.list_entries(session, filters, limit=9)
        assert "".join(row.object_id for row in rows) == found
        older = log.list_entries(session, Filters(), limit=2, before=4)
    assert [row.object_id for row in older] == ["c", "b"]


def test_the_newest_seal_is_kept_in_the_home(sealed: Database, settings: Settings) -> None:
    kept = read_kept(settings)
    assert kept == head(sealed)
    tamper(sealed, "DELETE FROM audit_log", "UPDATE audit_head SET number = 0, seal = ''")
    assert fault(sealed) == ""  # as if nothing had ever been written
    assert fault(sealed, kept) == "entries 1 to 5, which were sealed once, are not there"
