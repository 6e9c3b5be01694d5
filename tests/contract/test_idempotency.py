"""One key, one thing: on both databases, however many requests come at once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count

import pytest

from finlora_core.db.models import IdempotencyKey
from finlora_core.db.session import Database
from finlora_core.errors import IdempotencyConflict
from finlora_core.idempotency import KEPT, Made, forget_old, make_once
from tests.support import NOON

Make = Callable[..., Made]


@pytest.fixture
def numbers() -> Iterator[int]:
    return count(1)


@pytest.fixture
def make(database: Database, numbers: Iterator[int]) -> Make:
    def make(key: str = "k", body: str = "a" * 64, owner: str = "local") -> Made:
        with database.transaction() as session:
            return make_once(session, owner, key, body, lambda: f"run_{next(numbers)}", now=NOON)

    return make


def test_the_same_request_again_gives_what_the_first_one_made(make: Make) -> None:
    assert make() == Made("run_1", is_new=True)
    assert make() == Made("run_1", is_new=False)
    assert make(key="another") == Made("run_2", is_new=True)


def test_each_owner_has_keys_of_their_own(make: Make) -> None:
    assert make(owner="ann").id != make(owner="bob").id


def test_another_request_with_a_used_key_is_refused_and_makes_nothing(
    make: Make, numbers: Iterator[int]
) -> None:
    make()
    with pytest.raises(IdempotencyConflict):
        make(body="b" * 64)
    assert next(numbers) == 2


def test_fifty_at_once_make_one(make: Make) -> None:
    with ThreadPoolExecutor(50) as pool:
        made = list(pool.map(lambda _: make(), range(50)))
    assert {one.id for one in made} == {"run_1"}
    assert sum(one.is_new for one in made) == 1


def test_a_key_whose_request_failed_may_be_used_again(database: Database, make: Make) -> None:
    def fail() -> str:
        raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="disk"), database.transaction() as session:
        make_once(session, "local", "k", "a" * 64, fail, now=NOON)
    assert make().is_new


@pytest.mark.parametrize(("age", "is_forgotten"), [(-1, False), (1, True)])
def test_a_key_is_forgotten_after_a_day(
    database: Database, make: Make, age: int, is_forgotten: bool
) -> None:
    make()
    with database.transaction() as session:
        forget_old(session, now=NOON + KEPT + timedelta(seconds=age))
    with database.reading() as session:
        assert (session.get(IdempotencyKey, ("local", "k")) is None) is is_forgotten
