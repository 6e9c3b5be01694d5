"""Asks the playground's process, which may not be there."""

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx

from finlora_core.errors import PlaygroundUnavailable
from finlora_core.playground import GENERATE, Ended, Question, Refused, Told, told

URL = f"http://playground{GENERATE}"
TIMEOUT = httpx.Timeout(5, read=600)
"""Seconds; a large model may take minutes to load."""

NOT_THERE = (
    "the playground is not running; `finlora up` and docker compose start it, and so does "
    "`python -m worker.playground`"
)
ENDED_EARLY = "the playground ended before its answer did; it may have run out of memory"


async def ask(socket: Path, question: Question) -> AsyncGenerator[Told]:
    """`Started` once the model is in memory and the prompt fits, pieces, `Ended`.

    Closing it ends the generation. Raises `PlaygroundUnavailable`, `PlaygroundBusy`,
    `InvalidRequest`.
    """
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    try:
        async with (
            httpx.AsyncClient(transport=transport, timeout=TIMEOUT) as client,
            client.stream("POST", URL, content=question.model_dump_json()) as response,
        ):
            async for line in response.aiter_lines():
                news = told.validate_json(line)
                if isinstance(news, Refused):
                    raise news.error()
                yield news
                if isinstance(news, Ended):
                    return
    except httpx.ConnectError:
        raise PlaygroundUnavailable(NOT_THERE) from None
    except httpx.TransportError:
        raise PlaygroundUnavailable(ENDED_EARLY) from None
    raise PlaygroundUnavailable(ENDED_EARLY)
