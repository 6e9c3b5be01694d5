"""Bytes over HTTP as RFC 9110 has them: whole, in part, or not again."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from api.ranges import MAX_SPANS, Content, Span, requested, respond

BYTES = bytes(range(100))
ETAG = f'"{"e" * 64}"'


def content(size: int, read: Callable[[int, int], Iterator[bytes]]) -> Content:
    return Content(size, "e" * 64, "application/x-test", "f.bin", read)


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = FastAPI()

    def read(start: int, end: int) -> Iterator[bytes]:
        yield BYTES[start : (start + end) // 2]  # in two pieces
        yield BYTES[(start + end) // 2 : end]

    @app.api_route("/", methods=["GET", "HEAD"])
    async def get(request: Request) -> Response:
        return await respond(request, lambda: content(len(BYTES), read))

    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-9", [Span(0, 10)]),
        ("bytes=90-", [Span(90, 100)]),
        ("bytes=-10", [Span(90, 100)]),
        ("bytes=-1000", [Span(0, 100)]),
        ("bytes=90-1000", [Span(90, 100)]),
        ("BYTES = 0-0 , 99-", [Span(0, 1), Span(99, 100)]),
        ("bytes=50-60,0-9,5-20", [Span(0, 21), Span(50, 61)]),
        ("bytes=0-9,10-19", [Span(0, 20)]),
        ("bytes=0-9,200-", [Span(0, 10)]),
        ("bytes=100-", []),
        ("bytes=-0", []),
    ],
)
def test_what_a_range_header_asks_for(header: str, spans: list[Span]) -> None:
    assert requested(header, 100) == spans


@pytest.mark.parametrize(
    "header",
    ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=9-0", "lines=0-9", "bytes=0-9,x",
     "bytes=٣-٤", "bytes=" + "9" * 5000 + "-", "bytes=1.0-2"],
)  # fmt: skip
def test_a_range_that_cannot_be_understood_counts_as_not_sent(
    client: TestClient, header: str
) -> None:
    assert requested(header, 100) is None
    if header.isascii():
        assert client.get("/", headers={"Range": header}).content == BYTES


def test_too_many_ranges_get_the_whole() -> None:
    several = "bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(MAX_SPANS))
    assert len(requested(several, 100) or ()) == MAX_SPANS
    assert requested(several + ",99-", 100) is None


@pytest.mark.parametrize("header", ["bytes=0-9", "bytes=-10", "bytes=95-"])
def test_one_range_comes_with_its_place(client: TestClient, header: str) -> None:
    part = client.get("/", headers={"Range": header})
    (span,) = requested(header, 100) or ()
    assert part.status_code == 206
    assert part.content == BYTES[span.start : span.end]
    assert part.headers["content-range"] == f"bytes {span.start}-{span.end - 1}/100"
    assert part.headers["content-length"] == str(len(part.content))
    assert part.headers["etag"] == ETAG


def test_several_ranges_come_as_parts_of_one_answer(client: TestClient) -> None:
    answer = client.get("/", headers={"Range": "bytes=0-4,90-"})
    assert answer.status_code == 206
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    assert answer.headers["content-length"] == str(len(answer.content))
    first, second = (
        b"--%s\r\nContent-Type: application/x-test\r\nContent-Range: bytes %s/100\r\n\r\n%s\r\n"
        % (boundary.encode(), place, content)
        for place, content in ((b"0-4", BYTES[:5]), (b"90-99", BYTES[90:]))
    )
    assert answer.content == first + second + b"--%s--\r\n" % boundary.encode()


def test_a_range_past_the_end_is_told_where_that_is(client: TestClient) -> None:
    answer = client.get("/", headers={"Range": "bytes=100-"})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */100"


def test_a_range_of_something_else_by_now_gets_the_whole(client: TestClient) -> None:
    same = client.get("/", headers={"Range": "bytes=0-9", "If-Range": ETAG})
    other = client.get("/", headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)
    assert other.content == BYTES


@pytest.mark.parametrize(
    ("if_none_match", "status"),
    [(ETAG, 304), (f'"a", W/{ETAG}', 304), ("*", 304), ('"a"', 200), (ETAG.strip('"'), 200)],
)
def test_what_the_client_has_is_not_sent_again(
    client: TestClient, if_none_match: str, status: int
) -> None:
    answer = client.get("/", headers={"If-None-Match": if_none_match, "Range": "bytes=200-"})
    assert answer.status_code == (status if status == 304 else 416)
    assert (answer.content == b"") is (status == 304)


def test_a_head_says_what_a_get_would_bring(client: TestClient) -> None:
    for headers, length in (({}, "100"), ({"Range": "bytes=0-9"}, "10")):
        head = client.head("/", headers=headers)
        assert (head.headers["content-length"], head.content) == (length, b"")
        assert head.headers["accept-ranges"] == "bytes"


def test_nothing_more_is_read_for_a_client_who_has_gone() -> None:
    read_pieces = 0
    messages = iter(["http.request", "http.disconnect"])

    def read(start: int, end: int) -> Iterator[bytes]:
        nonlocal read_pieces
        for _ in range(start, end):
            read_pieces += 1
            yield b"."

    async def receive() -> dict[str, str]:
        return {"type": next(messages)}

    async def send(message: object) -> None:
        """To nobody."""

    async def go() -> None:
        scope = {"type": "http", "method": "GET", "headers": []}
        response = await respond(Request(scope), lambda: content(1000, read))
        await response(scope, receive, send)

    asyncio.run(go())
    assert read_pieces < 10
