"""API keys in both databases: which ones open something, and when."""

import json
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from api.access import Doorman
from finlora_core.access import keys
from finlora_core.access.first_key import key_file, make_first_key, read_key
from finlora_core.access.keys import USE_NOTED_EVERY, Caller
from finlora_core.access.pepper import load_pepper
from finlora_core.access.quota import UNLIMITED
from finlora_core.access.scopes import ALL, Scope
from finlora_core.access.tokens import mint
from finlora_core.db.models import ApiKey
from finlora_core.db.session import Database
from finlora_core.errors import NotFound
from finlora_core.settings import Settings
from tests.support import NOON

PEPPER = b"p" * 32
DAY = timedelta(days=1)

Make = Callable[..., str]


@pytest.fixture
def make(database: Database) -> Make:
    def make(owner: str = "ann", expires_at: datetime | None = None) -> str:
        with database.transaction() as session:
            _, text = keys.create(
                session,
                PEPPER,
                name="k",
                owner=owner,
                scopes=[Scope.RUNS_READ],
                now=NOON,
                expires_at=expires_at,
            )
            return text

    return make


def caller_of(database: Database, text: str, **given: Any) -> Caller | None:
    with database.reading() as session:
        given = {"pepper": PEPPER, "now": NOON, "text": text, **given}
        key = keys.authenticate(session, **given)
        return keys.caller_of(key) if key else None


def test_a_key_stands_for_its_owner_and_its_scopes(database: Database, make: Make) -> None:
    caller = caller_of(database, make())
    assert caller is not None
    assert (caller.owner, caller.scopes) == ("ann", {Scope.RUNS_READ})


def test_the_database_holds_nothing_that_opens_anything(database: Database, make: Make) -> None:
    text = make()
    with database.reading() as session:
        (key,) = session.scalars(select(ApiKey))
        stored = json.dumps({c.name: str(getattr(key, c.name)) for c in ApiKey.__table__.columns})
    assert text[21:53] not in stored
    assert caller_of(database, text, pepper=b"q" * 32) is None


def test_a_wrong_an_unknown_and_a_mistyped_key_open_nothing(
    database: Database, make: Make
) -> None:
    right = make()
    other = mint()
    forged = type(other)(right[8:20], other.secret)
    for text in (forged.text, other.text, right[:-1] + "x", "", "\ud800"):
        assert caller_of(database, text) is None


@pytest.mark.parametrize(("after", "opens"), [(-1, True), (0, False), (1, False)])
def test_a_key_opens_nothing_from_its_end_on(
    database: Database, make: Make, after: int, opens: bool
) -> None:
    text = make(expires_at=NOON + DAY)
    caller = caller_of(database, text, now=NOON + DAY + timedelta(seconds=after))
    assert (caller is not None) is opens


def test_a_revoked_key_opens_nothing_and_is_still_listed(database: Database, make: Make) -> None:
    text = make()
    with database.transaction() as session:
        first = keys.revoke(session, text[8:20], now=NOON).revoked_at
    with database.transaction() as session:
        again = keys.revoke(session, text[8:20], now=NOON + DAY).revoked_at
    assert first == again == NOON
    assert caller_of(database, text) is None
    with database.reading() as session:
        assert [key.id for key in keys.list_keys(session, cursor=None, limit=9).rows] == [
            text[8:20]
        ]


def test_a_key_that_is_not_there_cannot_be_revoked(database: Database) -> None:
    with database.transaction() as session, pytest.raises(NotFound):
        keys.revoke(session, "nobody", now=NOON)


def test_its_use_is_noted_to_the_minute(database: Database, make: Make) -> None:
    key_id = make()[8:20]
    seen = []
    for after in (timedelta(), USE_NOTED_EVERY / 2, USE_NOTED_EVERY * 2):
        with database.transaction() as session:
            keys.note_use(session, key_id, now=NOON + after)
        with database.reading() as session:
            seen.append(session.get_one(ApiKey, key_id).last_used_at)
    assert seen == [NOON, NOON, NOON + USE_NOTED_EVERY * 2]


def test_looking_a_key_up_again_writes_nothing_within_a_minute(
    database: Database, make: Make
) -> None:
    text, writes = make(), []

    def note(*arguments: object) -> None:
        if str(arguments[2]).startswith(("UPDATE", "BEGIN IMMEDIATE")):
            writes.append(arguments[2])

    event.listen(database.engine, "before_cursor_execute", note)
    seen = []
    for _ in range(3):
        Doorman(database, PEPPER, UNLIMITED).look_up(text)
        seen.append(len(writes))
    event.remove(database.engine, "before_cursor_execute", note)
    assert seen[0] > 0
    assert seen[0] == seen[1] == seen[2]


def test_the_first_start_makes_one_key_however_many_start_at_once(
    database: Database, settings: Settings
) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: make_first_key(database, settings), range(4)))
    text = read_key(settings)
    assert text is not None
    caller = caller_of(database, text, pepper=load_pepper(settings))
    assert caller is not None
    assert (caller.owner, caller.scopes) == ("local", ALL)
    assert stat.S_IMODE(key_file(settings).stat().st_mode) == 0o600


def test_a_service_that_has_keys_gets_no_other_first_one(
    database: Database, settings: Settings, make: Make
) -> None:
    make()
    make_first_key(database, settings)
    assert read_key(settings) is None
