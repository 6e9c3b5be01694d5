"""A proxy that cuts connections: what a bad network does to a download."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PIECE = 64 * 1024


class CuttingProxy:
    """Forwards to `port`; each connection ends after `limit` bytes of answers.

    After `connections` of them it answers nothing any more.
    """

    def __init__(self, port: int, *, limit: int, connections: int) -> None:
        self.answered = 0
        """Bytes that came through."""
        self._port = port
        self._limit = limit
        self._left = connections
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"

    def serve(self) -> None:
        with suppress(OSError):  # the door was closed
            while True:
                client, _ = self._door.accept()
                self._left -= 1
                if self._left < 0:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server), daemon=True).start()

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while asked := client.recv(PIECE):
                server.sendall(asked)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        left = self._limit
        with suppress(OSError), client, server:
            while left and (answer := server.recv(min(PIECE, left))):
                client.sendall(answer)
                self.answered += len(answer)
                left -= len(answer)
            client.shutdown(socket.SHUT_RDWR)
            server.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(url: str, *, limit: int, connections: int = 1000) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(int(url.rsplit(":", 1)[1]), limit=limit, connections=connections)
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
