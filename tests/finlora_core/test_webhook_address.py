"""Where a webhook may send to: what is stored, and what is connected to in the end."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import httpcore
import pytest

from finlora_core.errors import InvalidWebhook
from finlora_core.webhooks import connect
from finlora_core.webhooks.connect import Refused, post, require_url

INSIDE = (ip_network("10.1.0.0/16"), ip_network("127.0.0.0/8"))


@pytest.mark.parametrize(
    "url", ["https://hooks.example/x?y=1", "https://8.8.8.8:8443/", "https://[2001:4860::8888]/"]
)
def test_a_public_address_over_https_is_taken(url: str) -> None:
    require_url(url, ())


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/", "ftp://hooks.example/", "hooks.example", "", "https://",
        "https:///x", "https://hooks.example:99999/", "https://user@hooks.example/",
        "https://user:secret@hooks.example/", "https://hooks.example/#part",
        "https://hooks.example/a b", "https://hooks.example/\n", "https://h\u00f6oks.example/",
        "file:///etc/passwd", "https://[::1", "https://127.0.0.1/", "https://[::1]/",
        "https://10.0.0.1/", "https://192.168.1.1/", "https://172.16.0.1/", "https://0.0.0.0/",
        "https://169.254.169.254/latest/meta-data", "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1]/", "https://[fc00::1]/", "https://224.0.0.1/", "https://100.64.0.1/",
        "https://[64:ff9b:1::1]/", "https://[2002:7f00:1::]/", "https://255.255.255.255/",
    ],
)  # fmt: skip
def test_anything_else_is_refused_before_it_is_stored(url: str) -> None:
    with pytest.raises(InvalidWebhook):
        require_url(url, ())


def test_the_operator_may_allow_networks_and_plain_http_to_addresses_in_them() -> None:
    require_url("https://10.1.2.3/", INSIDE)
    require_url("http://10.1.2.3/", INSIDE)
    for url in ("http://10.2.0.1/", "http://8.8.8.8/", "http://hooks.example/"):
        with pytest.raises(InvalidWebhook):
            require_url(url, INSIDE)


@contextmanager
def answering(answer: bytes, *, every: float = 0) -> Iterator[tuple[int, list[bytes]]]:
    """A server for one request; with `every` it sends a byte at a time, so many seconds apart."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            client, _ = door.accept()
            with client:
                request = b""
                while not request.endswith(b"}"):
                    request += client.recv(65536)
                heard.append(request)
                for byte in answer:
                    try:
                        client.send(bytes([byte]))
                    except OSError:
                        return
                    time.sleep(every)

        thread = threading.Thread(target=serve)
        thread.start()
        yield door.getsockname()[1], heard
        thread.join()


def test_an_allowed_address_gets_the_body_and_gives_its_status() -> None:
    with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as (port, heard):
        url = f"http://127.0.0.1:{port}/hook?a=1"
        assert post(url, '{"id": "evt_1"}', [("webhook-id", "evt_1")], INSIDE) == 204
    assert heard[0].startswith(b"POST /hook?a=1 HTTP/1.1\r\n")
    assert b"webhook-id: evt_1" in heard[0]
    assert heard[0].endswith(b'{"id": "evt_1"}')


def test_a_redirect_is_an_answer_and_not_followed() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with answering(moved) as (port, _):
        assert post(f"http://127.0.0.1:{port}/", "{}", (), INSIDE) == 302


def test_a_name_is_judged_by_the_address_it_stands_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(0.2)
        with pytest.raises(Refused, match="127"):
            post(f"https://localhost:{door.getsockname()[1]}/", "{}", (), ())
        with pytest.raises(TimeoutError):
            door.accept()


def test_a_name_that_also_stands_for_an_inner_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 443)) for ip in ("8.8.8.8", "10.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(Refused, match=r"10\.0\.0\.1"):
        post("https://hooks.example/", "{}", (), ())


def test_an_answer_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "SECONDS", 0.3)
    with (
        answering(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4, every=0.05) as (port, _),
        pytest.raises(httpcore.TimeoutException),
    ):
        post(f"http://127.0.0.1:{port}/", "{}", (), INSIDE)
