"""Where a webhook may connect to: public addresses, and what the operator has allowed.

The address is looked at after the name has been resolved, and exactly that one is connected
to: a name that means another address a moment later gains nothing. Redirects are not followed.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

import httpcore

from finlora_core.errors import InvalidWebhook

SECONDS = 10.0
"""For one try in all, however slowly the other end speaks."""

_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
"""RFC 6052 and RFC 8215: the last four bytes are an IPv4 address."""

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]


class Refused(Exception):
    """The name stands for an address that nothing may be sent to."""


def require_url(url: str, allowed: Networks) -> None:
    """Before it is stored. Raises `InvalidWebhook`.

    Plain http only to an address, spelt as one, in a network that the operator has allowed.
    """
    parts = _split(url)
    if parts.username or parts.password:
        raise InvalidWebhook("must not hold a user or a password: the message is signed instead")
    if parts.fragment:
        raise InvalidWebhook("must not hold a fragment")
    address = _as_address(parts.hostname or "")
    if address is not None and not is_allowed(address, allowed):
        raise InvalidWebhook(f"{address} is no public address, and not allowed by the operator")
    plain = parts.scheme == "http" and address is not None and _is_in(address, allowed)
    if parts.scheme != "https" and not plain:
        raise InvalidWebhook("must be https://")


def post(url: str, body: str, headers: Iterable[tuple[str, str]], allowed: Networks) -> int:
    """The status that was answered. Raises `Refused`, or httpcore's errors."""
    deadline = time.monotonic() + SECONDS
    timeout = {"connect": SECONDS, "read": SECONDS, "write": SECONDS, "pool": SECONDS}
    with (
        httpcore.ConnectionPool(network_backend=_Guarded(allowed, deadline)) as pool,
        pool.stream(
            "POST",
            url,
            headers=[*headers, ("content-type", "application/json")],
            content=body.encode(),
            extensions={"timeout": timeout},
        ) as answer,
    ):
        return answer.status


def is_allowed(address: Address, allowed: Networks) -> bool:
    if _is_in(address, allowed):
        return True
    inner = _inside(address)
    return address.is_global and not address.is_multicast and (inner is None or inner.is_global)


def _inside(address: Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to, through one of the ways from there to here."""
    if isinstance(address, IPv4Address):
        return None
    if any(address in network for network in _NAT64):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]


def _is_in(address: Address, networks: Networks) -> bool:
    return any(address in network for network in networks)


def _as_address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True)
class _Url:
    scheme: str
    hostname: str | None
    username: str | None
    password: str | None
    fragment: str


def _split(url: str) -> _Url:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise InvalidWebhook("is not a URL") from None
    if not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidWebhook("is not a URL")
    return _Url(parts.scheme, parts.hostname, parts.username, parts.password, parts.fragment)


class _Guarded(httpcore.NetworkBackend):
    """Resolves by itself, and hands on only the address that it has looked at."""

    def __init__(self, allowed: Networks, deadline: float) -> None:
        self._allowed = allowed
        self._deadline = deadline
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline)
        stream = self._plain.connect_tcp(self._resolve(host, port), port, left)
        return _Until(stream, self._deadline)

    def _resolve(self, host: str, port: int) -> str:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} has no address: {error}") from None
        addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        for address in addresses:
            if not is_allowed(address, self._allowed):
                raise Refused(f"{host} stands for {address}, which nothing may be sent to")
        return str(addresses[0])


class _Until(httpcore.NetworkStream):
    """A connection whose every wait ends at one time: else an answer that trickles never would."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline)
        return _Until(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout(f"no whole answer within {SECONDS:g} s")
    return left
