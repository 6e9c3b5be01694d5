"""Answers questions to finished adapters, one at a time: `python -m worker.playground`.

A process of its own, since torch must stay out of the API's, and since whatever reads a model
gets no secret (worker.environment). It listens on a Unix socket. One model is in memory, from the
first question to it until another one is asked or nobody asks any more; all that time it holds
the lock of its GPU, so that no training is put beside it.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from finlora_core.playground import GENERATE, Ended, Model, Piece, Question, Refused, Started, Told
from finlora_core.settings import Settings, load_settings
from finlora_core.training.axolotl import Hardware
from worker.environment import playground_environment
from worker.hardware import detect, gpus_of
from worker.locks import Busy, gpu_lock, hold

if TYPE_CHECKING:  # it brings torch: only the first question imports it
    from worker.generation import Loaded

logger = logging.getLogger(__name__)

SERVE = "serve"
STOP_SECONDS = 1
"""That an answer under way may go on when the process is told to stop."""

Tell = Callable[[Told], None]


class Desk:
    """Room for one model. Used by one thread at a time."""

    def __init__(self, hardware: Hardware, lock: Path | None) -> None:
        """`lock` is the GPU's; a CPU is shared with trainings."""
        self._hardware = hardware
        self._lock = lock
        self._held = ExitStack()
        self._loaded: Loaded | None = None

    def answer(self, question: Question, tell: Tell, gone: Event) -> None:
        """Tells everything, its own failure included; the last is `Ended` or `Refused`."""
        from worker.generation import Unanswerable

        try:
            model = self._model(question.model)
            ids = model.encode(question)
            tell(Started(prompt_tokens=len(ids)))
            tell(model.answer(question, ids, lambda text: tell(Piece(text=text)), gone))
        except Unanswerable as error:
            tell(Refused(why="invalid", key=error.key, detail=str(error)))
        except Busy:
            tell(
                Refused(why="unavailable", detail="a training has the GPU; ask when it has ended")
            )
        except Exception:
            logger.exception("no answer from %s", question.model)
            self.clear()
            detail = "the playground cannot load or run this model; its log says why"
            tell(Refused(why="unavailable", detail=detail))

    def clear(self) -> None:
        """Give the memory back, and the GPU to whoever wants to train."""
        if self._loaded is not None:
            from worker.generation import free_memory

            self._loaded = None
            free_memory()
        self._held.close()

    def _model(self, wanted: Model) -> "Loaded":
        from worker.generation import Loaded

        if self._loaded is None or self._loaded.wanted != wanted:
            self.clear()
            if self._lock is not None:
                self._held.enter_context(hold(self._lock))
            self._loaded = Loaded(wanted, self._hardware)
        return self._loaded


class Playground:
    """Lets one after the other at the desk."""

    def __init__(self, desk: Desk, *, wait: float, idle: float) -> None:
        """In seconds: how long one waits for another, and until the desk is cleared."""
        self._desk = desk
        self._wait = wait
        self._idle = idle
        self._seat = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "desk")
        self._clearing: asyncio.TimerHandle | None = None

    async def ask(self, question: Question) -> AsyncGenerator[Told]:
        """Closed early, it stops the generation; the seat is free when that has stopped."""
        try:
            async with asyncio.timeout(self._wait):
                await self._seat.acquire()
        except TimeoutError:
            yield Refused(why="busy", detail="somebody else is asking; try again soon")
            return
        news, gone = asyncio.Queue[Told](), Event()
        self._sit_down(question, news, gone)
        try:
            while True:
                told = await news.get()
                yield told
                if isinstance(told, Ended | Refused):
                    return
        finally:
            gone.set()

    def _sit_down(self, question: Question, news: asyncio.Queue[Told], gone: Event) -> None:
        if self._clearing is not None:
            self._clearing.cancel()
        loop = asyncio.get_running_loop()

        def tell(told: Told) -> None:
            loop.call_soon_threadsafe(news.put_nowait, told)

        work = loop.run_in_executor(self._thread, self._desk.answer, question, tell, gone)
        work.add_done_callback(self._stand_up)

    def _stand_up(self, work: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        self._clearing = loop.call_later(self._idle, self._thread.submit, self._desk.clear)
        self._seat.release()


async def _lines(answer: AsyncIterator[Told]) -> AsyncIterator[bytes]:
    async for told in answer:
        yield told.model_dump_json().encode() + b"\n"


def create_playground(playground: Playground) -> Starlette:
    async def generate(request: Request) -> StreamingResponse:
        answer = playground.ask(Question.model_validate_json(await request.body()))
        return StreamingResponse(
            _lines(answer),
            media_type="application/jsonl",
            background=BackgroundTask(answer.aclose),  # run too when nobody listens any more
        )

    return Starlette(routes=[Route(GENERATE, generate, methods=["POST"])])


def serve(settings: Settings) -> None:
    hardware = detect(settings.device)
    gpus = gpus_of(hardware)
    lock = gpu_lock(settings.home, gpus[0]) if gpus else None
    playground = Playground(
        Desk(hardware, lock),
        wait=settings.playground_wait_seconds,
        idle=settings.playground_idle_seconds,
    )
    settings.playground.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    uvicorn.run(
        create_playground(playground),
        uds=str(settings.playground),
        access_log=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


def main() -> None:
    """Starts itself anew without what whoever started it has in its environment."""
    settings = load_settings()
    if sys.argv[1:] == [SERVE]:
        serve(settings)
        return
    gpus = gpus_of(detect(settings.device))[:1]
    command = [sys.executable, "-m", "worker.playground", SERVE]
    env = dict(playground_environment(settings, gpus))
    os.execve(sys.executable, command, env)  # noqa: S606  # there is no shell, and none is needed


if __name__ == "__main__":
    main()
