"""A dataset is there for as long as runs need it, whoever comes at the same time. On both."""

import pytest
from sqlalchemy.orm import Session

from finlora_core.access.keys import Caller
from finlora_core.access.scopes import ALL
from finlora_core.datasets import registry
from finlora_core.datasets.intake import Received
from finlora_core.db.session import Database
from finlora_core.runs import posting
from finlora_core.runs.config import RunRequest
from finlora_core.runs.lifecycle import Lease
from tests.contract.test_races import race
from tests.support import BASE_MODEL, FACTS, FORM, NOON

ID = "dataset_" + "1" * 20
ANN = Caller("ann", "key", ALL)
NOBODY = Lease("", 1, "")


def delete(session: Session, _: Lease) -> None:
    registry.forget_dataset(session, "ann", ID)


def post(session: Session, _: Lease) -> object:
    config = {"base_model": BASE_MODEL, "dataset_path": ID}
    request, data = RunRequest.model_validate(config), posting.Data(dataset=FACTS, validation=None)
    return posting.create_run(session, request, ANN, data, now=NOON).status


@pytest.fixture(autouse=True)
def _uploaded(database: Database) -> None:
    received = Received(ID, FORM, 10, FACTS)
    with database.transaction() as session:
        registry.add_dataset(session, received, owner="ann", name="x", lifetime=None, now=NOON)


def test_a_dataset_that_is_just_being_named_is_not_deleted(database: Database) -> None:
    assert race(database, NOBODY, post, delete) == ("queued", "DatasetInUse")


def test_a_dataset_that_is_just_being_deleted_is_not_named(database: Database) -> None:
    assert race(database, NOBODY, delete, post) == (None, "DatasetNotFound")


def test_two_runs_may_name_it_at_once(database: Database) -> None:
    assert race(database, NOBODY, post, post) == ("queued", "queued")
