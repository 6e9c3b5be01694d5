"""One after the other at the playground's desk, and the desk itself without a model."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Event

import pytest

from finlora_core.playground import Ended, Model, Piece, Question, Refused, Started, Told
from finlora_core.settings import Settings
from finlora_core.training.axolotl import Hardware
from tests.support import CANARY, eventually
from worker.environment import playground_environment
from worker.locks import gpu_lock, hold, is_held
from worker.playground import Desk, Playground, Tell

QUESTION = Question(model=Model(base=Path("/nowhere")), prompt="Profit rose.")
ENDED = Ended(finish_reason="stop", completion_tokens=1)


class Talker:
    """A desk at which somebody talks until they are told to stop, or have said their all."""

    def __init__(self, *, endless: bool = False) -> None:
        self.endless = endless
        self.cleared = Event()
        self.stopped = Event()

    def answer(self, question: Question, tell: Tell, gone: Event) -> None:
        tell(Started(prompt_tokens=3))
        tell(Piece(text="a"))
        if self.endless:
            gone.wait(20)
            self.stopped.set()
        tell(ENDED)

    def clear(self) -> None:
        self.cleared.set()


def at(desk: Desk | Talker, act: Callable[[Playground], Awaitable[None]], **timing: float) -> None:
    async def main() -> None:
        await act(Playground(desk, **{"wait": 0.05, "idle": 60, **timing}))  # type: ignore[arg-type]

    asyncio.run(main())


async def all_told(playground: Playground) -> list[Told]:
    return [told async for told in playground.ask(QUESTION)]


def test_an_answer_is_told_as_it_comes() -> None:
    async def act(playground: Playground) -> None:
        for _ in range(2):
            assert await all_told(playground) == [Started(prompt_tokens=3), Piece(text="a"), ENDED]

    at(Talker(), act)


def test_the_second_is_sent_away_when_the_first_takes_long() -> None:
    talker = Talker(endless=True)

    async def act(playground: Playground) -> None:
        first = playground.ask(QUESTION)
        await anext(first)
        (refused,) = await all_told(playground)
        assert isinstance(refused, Refused)
        assert refused.why == "busy"
        await first.aclose()
        talker.endless = False
        assert (await all_told(playground))[-1] == ENDED
        assert talker.stopped.is_set()

    at(talker, act, wait=0.5)


def test_whoever_waits_for_the_second_before_gets_the_seat_when_it_is_free() -> None:
    async def act(playground: Playground) -> None:
        everything = await asyncio.gather(*(all_told(playground) for _ in range(5)))
        assert [told[-1] for told in everything] == [ENDED] * 5

    at(Talker(), act, wait=10)


def test_the_desk_is_cleared_when_nobody_asks_any_more() -> None:
    talker = Talker()

    async def act(playground: Playground) -> None:
        await all_told(playground)
        assert await asyncio.to_thread(eventually, talker.cleared.is_set)

    at(talker, act, idle=0.01)


def test_a_gpu_is_not_taken_from_a_training(tmp_path: Path) -> None:
    lock = gpu_lock(tmp_path, "GPU-1")
    told: list[Told] = []
    with hold(lock):
        Desk(Hardware.CPU, lock).answer(QUESTION, told.append, Event())
    (refused,) = told
    assert isinstance(refused, Refused)
    assert (refused.why, "a training has the GPU" in refused.detail) == ("unavailable", True)


def test_a_model_that_cannot_be_loaded_is_said_and_lets_go_of_the_gpu(tmp_path: Path) -> None:
    lock = gpu_lock(tmp_path, "GPU-1")
    told: list[Told] = []
    Desk(Hardware.CPU, lock).answer(QUESTION, told.append, Event())
    (refused,) = told
    assert isinstance(refused, Refused)
    assert refused.why == "unavailable"
    assert not is_held(lock)


def test_the_playground_gets_no_secret(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    full = settings.model_validate(
        {
            **dict(settings),
            "hf_token": CANARY,
            "key_pepper": CANARY,
            "database_url": f"postgresql://u:{CANARY}@host/db",
            "broker_url": f"redis://u:{CANARY}@host/0",
        }
    )
    variables = playground_environment(full, ["GPU-1"])
    assert CANARY not in json.dumps(dict(variables))
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert variables["FINLORA_PLAYGROUND_SOCKET"] == str(full.playground)
