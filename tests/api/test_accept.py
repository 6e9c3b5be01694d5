"""Whether a client would rather have a stream."""

import pytest

from api.accept import prefers_stream


@pytest.mark.parametrize(
    "accept",
    [
        "text/event-stream",
        "TEXT/Event-Stream",
        "text/event-stream; charset=utf-8",
        "application/json;q=0.5, text/event-stream",
        "text/event-stream;q=0.6, */*;q=0.5",
        "application/json;q=0, text/event-stream;q=0.001",
        "text/*, application/json;q=0.9",
        "image/png, text/event-stream",
    ],
)
def test_a_stream_is_sent_to_who_likes_it_better(accept: str) -> None:
    assert prefers_stream(accept, "application/json")


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/json",
        "application/json, text/event-stream",
        "text/event-stream;q=0",
        "text/event-stream;q=0.4, application/*;q=0.5",
        "text/event-stream;q=much, application/json;q=0.1",
        "event-stream",
        ";;,,=",
    ],
)
def test_a_page_is_sent_to_everybody_else(accept: str) -> None:
    assert not prefers_stream(accept, "application/json")


def test_text_of_any_kind_is_the_log_as_text() -> None:
    assert not prefers_stream("text/*", "text/plain")
    assert prefers_stream("text/event-stream, text/*;q=0.9", "text/plain")
