"""Load on one HTTP server, from a process of its own: `measure` starts it and waits for it.

Raw sockets in one thread: each connection sends a request whose bytes are ready, reads the
answer, counts it and sends the next. A request costs this process about 30 µs, so that one
core makes far more of them than any contestant answers; `cpu` tells how busy it was.
"""

import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
BUFFER = 1024 * 1024  # bytes
GIVE_UP_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """Requests to one server; each goes to the next path, and round again."""

    port: int
    paths: Sequence[str]
    bodies: Sequence[str] = ()
    """With them it is a POST."""
    headers: Mapping[str, str] = field(default_factory=dict)
    may_fail: bool = False
    """Its errors are counted, and do not end the benchmark."""

    def requests(self) -> Iterator[bytes]:
        bodies = [body.encode() for body in self.bodies] or [b""]
        pairs = zip(cycle(self.paths), cycle(bodies), strict=False)
        number = max(len(self.paths), len(bodies))
        return cycle([self._request(path, body) for path, body in islice(pairs, number)])

    def _request(self, path: str, body: bytes) -> bytes:
        headers = {"Host": f"127.0.0.1:{self.port}", **self.headers}
        if body:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        method = "POST" if body else "GET"
        lines = [f"{method} {path} HTTP/1.1", *(f"{key}: {headers[key]}" for key in headers)]
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True)
class Load:
    """What was seen. `seconds` is up to the last answer, or until nobody answered any more."""

    requests: int
    errors: int
    seconds: float
    bytes: int
    latencies_ms: Sequence[float]
    cpu: float
    """Share of one core that making this load took."""
    first_error: str | None


def measure(target: Target, connections: int, seconds: float) -> Load:
    """Load from another process. No request starts after `seconds`; those sent are awaited."""
    order = json.dumps({**asdict(target), "connections": connections, "seconds": seconds})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.side_by_side.load"],
        input=order,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=REPOSITORY,
        timeout=seconds + 2 * GIVE_UP_SECONDS,
    )
    return Load(**json.loads(done.stdout))


class _Connection:
    """One client: at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sent = 0.0
        self._head = b""
        self._left: int | None = None
        """Bytes of the body that are still to come; None while the head is not whole."""

    def send(self, request: bytes) -> None:
        self._sent, self._head, self._left = time.perf_counter(), b"", None
        self.socket.sendall(request)

    def receive(self, buffer: memoryview) -> tuple[float, int, str | None] | None:
        """Seconds, body bytes and what was wrong, once the answer is whole."""
        count = self.socket.recv_into(buffer)
        if count == 0:
            raise ConnectionError(f"closed amid an answer: {self._head[:200]!r}")
        if self._left is None:
            self._read_head(bytes(buffer[:count]))
        else:
            self._left -= count
        if self._left != 0:
            return None
        status = self._head[9:12]
        wrong = None if status[:1] == b"2" else self._head[:2000].decode(errors="replace")
        return time.perf_counter() - self._sent, self._size, wrong

    def _read_head(self, received: bytes) -> None:
        self._head += received
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return
        _, found, rest = self._head[:end].lower().partition(b"\r\ncontent-length:")
        if not found:
            raise ConnectionError(f"an answer without a length: {self._head[:300]!r}")
        self._size = int(rest.split(b"\r\n", 1)[0])
        self._left = self._size - (len(self._head) - end - 4)


def _run(target: Target, connections: int, seconds: float) -> Load:
    requests, buffer = target.requests(), memoryview(bytearray(BUFFER))
    latencies: list[float] = []
    errors, size, first_error = 0, 0, None
    clients = [_Connection(target.port) for _ in range(connections)]
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        started, cpu = time.perf_counter(), time.process_time()
        for client in clients:
            client.send(next(requests))
        busy = connections
        while busy:
            ready = selector.select(GIVE_UP_SECONDS)
            if not ready:
                errors += busy
                first_error = first_error or f"no answer within {GIVE_UP_SECONDS:g} s"
                break
            for key, _ in ready:
                answer = key.data.receive(buffer)
                if answer is None:
                    continue
                latencies.append(answer[0])
                size += answer[1]
                errors += answer[2] is not None
                first_error = first_error or answer[2]
                if time.perf_counter() - started < seconds:
                    key.data.send(next(requests))
                else:  # the server may close it before the others are through
                    selector.unregister(key.fileobj)
                    busy -= 1
        took = time.perf_counter() - started
        cpu = (time.process_time() - cpu) / took
    return Load(
        requests=len(latencies) + busy,
        errors=errors,
        seconds=took,
        bytes=size,
        latencies_ms=[round(1000 * latency, 3) for latency in latencies],
        cpu=cpu,
        first_error=first_error,
    )


def main() -> None:
    order: dict[str, Any] = json.load(sys.stdin)
    connections, seconds = order.pop("connections"), order.pop("seconds")
    print(json.dumps(asdict(_run(Target(**order), connections, seconds))))


if __name__ == "__main__":
    main()
