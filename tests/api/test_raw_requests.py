"""What no client library would send: bytes on a socket, to the server that `finlora up` starts.

What cannot be read in one way only is refused, and the connection ended, so that whatever follows
in it is never taken for a request of somebody else (request smuggling).
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from api import strict
from api.main import create_app
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.server import serving
from tests.support import BASE_MODEL, ListQueue, bearer, eventually, make_key

PATIENCE = 20.0
"""Seconds that a test waits for an answer."""

RUN = b'{"base_model": "%b", "dataset_path": "train.jsonl"}' % BASE_MODEL.encode()
SMUGGLED = b"DELETE /runs HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""Would be answered with 405."""


@dataclass(frozen=True)
class Service:
    address: str
    headers: Mapping[str, str]
    """With a key."""

    def head(self, line: str, *more: str, host: str = "Host: localhost") -> bytes:
        """Of a request: its line, a Host, a key, and other headers."""
        keys = [f"{name}: {value}" for name, value in self.headers.items()]
        lines = [line, *([host] if host else []), *keys, *more]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def post(self, *more: str) -> bytes:
        return self.head("POST /runs HTTP/1.1", "Content-Type: application/json", *more)

    def dial(self) -> socket.socket:
        url = urlsplit(self.address)
        return socket.create_connection((url.hostname, url.port), PATIENCE)

    def say(self, sent: bytes) -> bytes:
        """All that comes back until the server ends the connection."""
        with closing(self.dial()) as connection:
            connection.sendall(sent)
            return heard(connection)

    def hang_up(self, sent: bytes) -> None:
        with closing(self.dial()) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            heard(connection)

    def runs(self) -> int:
        return len(httpx.get(f"{self.address}/runs", headers=self.headers).json()["data"])


def heard(connection: socket.socket) -> bytes:
    pieces: list[bytes] = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.fixture
def service(
    settings: Settings, database: Database, queue: ListQueue, store: AdapterStore, dataset: Path
) -> Iterator[Service]:
    app = create_app(settings=settings, database=database, queue=queue, store=store)
    key = bearer(make_key(database, settings))
    with serving(app) as address:
        yield Service(address, key)


def statuses(answer: bytes) -> Sequence[int]:
    """Of all answers on a connection."""
    return [int(each[1:4]) for each in answer.split(b"HTTP/1.1")[1:]]


def answers(service: Service, requests: Mapping[str, bytes]) -> Mapping[str, set[int]]:
    return {name: set(statuses(service.say(sent))) for name, sent in requests.items()}


UNREADABLE: Mapping[str, bytes] = {
    "nothing of HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32 + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "a version of nobody": b"GET /healthz HTTP/1.1.1\r\nHost: localhost\r\n\r\n",
    "a space in the path": b"GET /runs /x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "NUL in the path": b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two of them": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "NUL in a header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: b\0c\r\n\r\n",
    "a carriage return in one": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: b\rc\r\n\r\n",
    "a space before a colon": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA : b\r\n\r\n",
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nhello\r\n\r\n",
    "a header without a name": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n: b\r\n\r\n",
    "a folded first header": b"GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a head without end": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 20_000,
    "headers without end": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 4_000,
}  # fmt: skip

UNCERTAIN: Mapping[str, tuple[str, ...]] = {
    "two lengths": ("Content-Length: 5", "Content-Length: 6"),
    "two lengths in one": ("Content-Length: 5, 6",),
    "a negative length": ("Content-Length: -5",),
    "a length with a sign": ("Content-Length: +5",),
    "a hexadecimal length": ("Content-Length: 0x5",),
    "a length in words": ("Content-Length: five",),
    "a length of 5,000 digits": ("Content-Length: " + "9" * 5000,),
    "a length and chunks": ("Content-Length: 5", "Transfer-Encoding: chunked"),
    "chunks and a length": ("Transfer-Encoding: chunked", "Content-Length: 5"),
    "an encoding of nobody": ("Transfer-Encoding: xchunked",),
    "two encodings": ("Transfer-Encoding: gzip, chunked",),
    "chunks twice": ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "chunks, and not": ("Transfer-Encoding: chunked, identity",),
}

CHUNKS: Mapping[str, bytes] = {
    "a size in words": b"five\r\n{}   \r\n0\r\n\r\n",
    "a negative size": b"-5\r\n{}   \r\n0\r\n\r\n",
    "a size with 0x": b"0x5\r\n{}   \r\n0\r\n\r\n",
    "a size past 64 bits": b"fffffffffffffffffffff\r\n{}",
    "more than its size": b"2\r\n{}   \r\n0\r\n\r\n",
    "no size": b"\r\n{}\r\n0\r\n\r\n",
}


def test_what_is_no_request_ends_the_connection(service: Service) -> None:
    assert answers(service, UNREADABLE) == {name: {400} for name in UNREADABLE}


def test_a_body_without_a_certain_end_ends_the_connection(service: Service) -> None:
    heads = {name: service.post(*headers) + SMUGGLED for name, headers in UNCERTAIN.items()}
    assert answers(service, heads) == {name: {400} for name in UNCERTAIN}
    assert service.runs() == 0


def test_broken_chunks_end_the_connection(service: Service) -> None:
    head = service.post("Transfer-Encoding: chunked")
    requests = {name: head + chunks + SMUGGLED for name, chunks in CHUNKS.items()}
    assert answers(service, requests) == {name: {400} for name in CHUNKS}
    assert service.runs() == 0


def test_a_request_in_chunks_is_as_good_as_another(service: Service) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in RUN)
    head = service.post("Transfer-Encoding: chunked", "Connection: close")
    answer = service.say(head + chunks + b"0\r\n\r\n")
    assert statuses(answer) == [201]
    assert service.runs() == 1


def test_a_connection_that_ends_within_a_body_stores_nothing(service: Service) -> None:
    service.hang_up(service.post(f"Content-Length: {len(RUN) + 1}") + RUN)
    chunk = b"%x\r\n%b\r\n" % (len(RUN), RUN)
    service.hang_up(service.post("Transfer-Encoding: chunked") + chunk)
    assert service.runs() == 0


def test_an_old_client_needs_no_host(service: Service) -> None:
    answer = service.say(service.head("GET /healthz HTTP/1.0", host=""))
    assert statuses(answer) == [200]


@pytest.mark.parametrize("line", ["GET http://evil.example/runs HTTP/1.1", "OPTIONS * HTTP/1.1"])
def test_a_target_that_is_no_path_is_not_found(service: Service, line: str) -> None:
    assert statuses(service.say(service.head(line, "Connection: close"))) == [404]


def test_methods_are_told_apart_by_case(service: Service) -> None:
    assert statuses(service.say(service.head("get /runs HTTP/1.1", "Connection: close"))) == [405]


def test_no_other_protocol_is_spoken(service: Service) -> None:
    upgrade = ("Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
               "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")  # fmt: skip
    for protocol in (upgrade, ("Connection: Upgrade, close", "Upgrade: h2c")):
        assert statuses(service.say(service.head("GET /runs HTTP/1.1", *protocol))) == [200]


def test_too_large_a_body_is_refused_before_it_is_asked_for(service: Service) -> None:
    """A client that asks whether it should go on (curl does, with large bodies) is told no."""
    head = service.post(f"Content-Length: {strict.MAX_BODY + 1}", "Expect: 100-continue")
    assert statuses(service.say(head)) == [413]


def test_a_body_is_asked_for_when_it_will_be_read(service: Service) -> None:
    head = service.post(f"Content-Length: {len(RUN)}", "Expect: 100-continue", "Connection: close")
    assert statuses(service.say(head + RUN)) == [100, 201]


def test_a_body_that_does_not_come_is_not_waited_for_without_end(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict, "BODY_SECONDS", 0.2)
    with closing(service.dial()) as connection:
        connection.sendall(service.post("Content-Length: 100") + b'{"base')
        answer = heard(connection)
    assert statuses(answer) == [408]
    assert b'"request_timeout"' in answer


def test_a_hundred_connections_that_say_nothing_keep_nobody_waiting(service: Service) -> None:
    silent = [service.dial() for _ in range(100)]
    try:
        for connection in silent:
            connection.sendall(b"GET /runs HT")
        assert eventually(lambda: service.runs() == 0)
    finally:
        for connection in silent:
            connection.close()
