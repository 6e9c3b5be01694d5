"""An application on a port, as uvicorn serves it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from api.server import OPTIONS
from tests.support import eventually


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Its address."""
    with listening() as door:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", **OPTIONS))
        thread = threading.Thread(target=server.run, args=([door],))
        thread.start()
        assert eventually(lambda: server.started)
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        yield door
