"""The outbox: what an ended run leaves in it, who sends it, and what becomes of each try."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from threading import Thread
from typing import Any

import pytest

from finlora_core.db.models import Delivery, Run
from finlora_core.db.session import Database
from finlora_core.errors import NotFound
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.lifecycle import Order
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.training.diagnose import FailureCode, failure
from finlora_core.webhooks import registry, signing
from finlora_core.webhooks.delivery import BACKOFF, CLAIMED, Answer, Deliverer, claim_due, record
from finlora_core.webhooks.outbox import EVENTS
from tests.support import FACTS, NOON, POLICY, make_config

PEPPER = b"p" * 32
LOOPBACK = (ip_network("127.0.0.0/8"),)
SUCCEEDED, FAILED, CANCELLED = (
    f"fine_tuning.job.{end}" for end in ("succeeded", "failed", "cancelled")
)
FAILURE = AttemptEnd(end=End.FAILED, failure=failure(FailureCode.TRAINING_ERROR))


class Receiver(ThreadingHTTPServer):
    """Answers as it is told to, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.answers: list[int] = []
        self.heard: list[tuple[dict[str, str], str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Answers(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.heard.append((headers, body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        thread = Thread(target=receiver.serve_forever)
        thread.start()
        yield receiver
        receiver.shutdown()
        thread.join()


def subscribe(
    database: Database, url: str = "https://hooks.example/", *events: str, owner: str = "local"
) -> str:
    with database.transaction() as session:
        wanted = events or tuple(EVENTS.values())
        return registry.create(session, owner, url, wanted, now=NOON).id


def end_a_run(database: Database, end: AttemptEnd | None = None) -> Run:
    """Cancelled while it waits, unless an attempt's `end` is given."""
    with database.transaction() as session:
        order = Order(name="n")
        run = lifecycle.create_run(session, make_config(), order, dataset=FACTS, now=NOON)
        if end is None:
            return lifecycle.request_cancel(session, run.id, now=NOON)
        ttl = timedelta(minutes=2)
        lease = lifecycle.claim_next(session, worker="w", now=NOON, ttl=ttl)
        assert lease is not None
        lifecycle.finish(session, lease, end, now=NOON, policy=POLICY)
        return queries.get_any_run(session, run.id)


def deliveries(database: Database, webhook_id: str) -> list[Delivery]:
    with database.reading() as session:
        found = registry.list_deliveries(session, "local", webhook_id, cursor=None, limit=100)
        return list(found.rows)


@pytest.mark.parametrize(
    ("end", "event"),
    [(AttemptEnd(end=End.COMPLETED), SUCCEEDED), (FAILURE, FAILED), (None, CANCELLED)],
)
def test_an_ended_run_leaves_a_message_for_each_webhook_that_wants_it(
    database: Database, end: AttemptEnd | None, event: str
) -> None:
    every, this = subscribe(database), subscribe(database, "https://this.example/", event)
    subscribe(database, "https://other.example/", owner="other")
    run = end_a_run(database, end)
    for webhook in (every, this):
        (delivery,) = deliveries(database, webhook)
        body = json.loads(delivery.body)
        assert (body["type"], body["id"], body["object"]) == (event, delivery.id, "event")
        assert body["data"] == {"id": run.id.replace("run_", "ftjob-"), "run_id": run.id}


def test_a_move_that_is_rolled_back_tells_nobody(database: Database) -> None:
    webhook = subscribe(database)
    with database.transaction() as session:
        order = Order(name="n")
        run = lifecycle.create_run(session, make_config(), order, dataset=FACTS, now=NOON)
        lifecycle.request_cancel(session, run.id, now=NOON)
        session.rollback()
    assert deliveries(database, webhook) == []


def test_what_nobody_asked_for_is_not_sent(database: Database) -> None:
    webhook = subscribe(database, "https://this.example/", SUCCEEDED)
    end_a_run(database)
    assert deliveries(database, webhook) == []


def test_a_message_arrives_signed_as_standard_webhooks_are(
    database: Database, receiver: Receiver
) -> None:
    webhook = subscribe(database, receiver.url)
    end_a_run(database)
    Deliverer(database, PEPPER, LOOPBACK)()
    ((headers, body),) = receiver.heard
    (delivery,) = deliveries(database, webhook)
    assert (delivery.status, delivery.error, delivery.next_at) == (200, None, None)
    assert delivery.delivered_at is not None
    key = base64.b64decode(signing.secret_of(PEPPER, webhook).removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}".encode()
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert headers["webhook-id"] == delivery.id
    assert headers["content-type"] == "application/json"


def test_an_empty_outbox_is_looked_at_while_somebody_else_writes(database: Database) -> None:
    with database.transaction():
        Deliverer(database, PEPPER, LOOPBACK)()


def test_what_did_not_arrive_is_sent_again_with_the_same_id_and_body(
    database: Database, receiver: Receiver
) -> None:
    webhook = subscribe(database, receiver.url)
    receiver.answers = [500]
    end_a_run(database)
    deliverer = Deliverer(database, PEPPER, LOOPBACK)
    deliverer()
    (delivery,) = deliveries(database, webhook)
    assert (delivery.status, delivery.tries, delivery.delivered_at) == (500, 1, None)
    with database.transaction() as session:
        registry.redeliver(session, "local", webhook, delivery.id, now=NOON)
    deliverer()
    (first, again) = receiver.heard
    assert (first[0]["webhook-id"], first[1]) == (again[0]["webhook-id"], again[1])
    assert deliveries(database, webhook)[0].delivered_at is not None


def test_an_address_that_may_not_be_sent_to_is_never_connected_to(
    database: Database, receiver: Receiver
) -> None:
    webhook = subscribe(database, receiver.url)
    end_a_run(database)
    Deliverer(database, PEPPER, ())()
    assert receiver.heard == []
    (delivery,) = deliveries(database, webhook)
    assert "nothing may be sent to" in (delivery.error or "")


def test_tries_grow_rarer_and_end(database: Database) -> None:
    webhook, at = subscribe(database), NOON
    end_a_run(database)
    waits = []
    while True:
        with database.transaction() as session:
            (message,) = claim_due(session, now=at)
            record(session, message.id, Answer(status=503), now=at)
        next_at = deliveries(database, webhook)[0].next_at
        if next_at is None:
            break
        waits.append(next_at - at)
        at = next_at
    assert tuple(waits) == BACKOFF
    with database.transaction() as session:
        assert claim_due(session, now=at + timedelta(days=9)) == []


def test_two_senders_do_not_send_one_message_until_the_first_has_had_its_time(
    database: Database,
) -> None:
    subscribe(database)
    end_a_run(database)

    def claim(after: timedelta) -> list[Any]:
        with database.transaction() as session:
            return list(claim_due(session, now=NOON + after))

    assert len(claim(timedelta())) == 1
    assert claim(CLAIMED / 2) == []
    assert len(claim(CLAIMED)) == 1


def test_another_owners_webhooks_are_not_there(database: Database) -> None:
    webhook = subscribe(database)
    end_a_run(database)
    (delivery,) = deliveries(database, webhook)
    with database.transaction() as session:
        for see in (
            lambda: registry.get(session, "other", webhook),
            lambda: registry.delete(session, "other", webhook),
            lambda: registry.redeliver(session, "other", webhook, delivery.id, now=NOON),
        ):
            with pytest.raises(NotFound):
                see()
        assert not registry.list_all(session, "other", cursor=None, limit=9).rows


def test_a_deleted_webhook_takes_its_messages_along(database: Database) -> None:
    webhook = subscribe(database)
    end_a_run(database)
    with database.transaction() as session:
        registry.delete(session, "local", webhook)
    with database.transaction() as session:
        assert claim_due(session, now=NOON + timedelta(days=1)) == []
        assert session.query(Delivery).count() == 0
