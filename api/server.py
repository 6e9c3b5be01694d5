"""uvicorn as this service wants it: `python -m api.server` listens where the settings say."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import uvicorn

OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "http": "h11",  # of both parsers the one that refuses what can be read in two ways
        "ws": "none",
        "access_log": False,  # it is polled all the time
        "server_header": False,
        "h11_max_incomplete_event_size": 16 * 1024,  # bytes of a request's head
    }
)


def main() -> None:
    from api.asgi import app, settings  # it connects to the database

    uvicorn.run(app, host=settings.host, port=settings.port, **OPTIONS)


if __name__ == "__main__":
    main()
