"""Learn that the server is told to stop while it still waits for open responses."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def calling_on_stop(act: Callable[[], None]) -> Iterator[None]:
    """`act` is called on the event loop when a signal asks this process to stop.

    uvicorn tells the application only once every response is complete, and a stream never is: so
    its signal handlers, which are there by now, get one before them. Outside the main thread
    there are no signals, and whoever runs the server there ends its streams.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(act)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
