"""One fault at a time, at random: kill -9, SIGSTOP, a lost queue, a database that goes away."""

import heapq
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.databases import DatabaseServer
from tests.chaos.parts import Part, Parts
from tests.chaos.processes import Found, Handle, Role, of_attempts

WEIGHTS = {
    "kill worker": 16,
    "kill guard": 16,
    "kill trainer": 16,
    "kill api": 8,
    "kill redis": 5,
    "stop worker": 12,
    "stop guard": 6,
    "stop trainer": 5,
    "stop api": 4,
    "flush redis": 5,
    "disturb database": 7,
}
"""How often each fault is drawn, against the others."""

LONG_STOP_SHARE = 0.35
"""Of the processes that are stopped, how many stay so until their lease is over: long enough for
another worker to have taken the run, and short enough to meet it there."""

WORKER_START_EVERY = 1.0
"""Seconds: starting one takes a second of CPU, and there are few cores."""


class Agenda:
    """Things to do later, on the thread that calls `run_due`."""

    def __init__(self) -> None:
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._order), act))

    def run_due(self) -> None:
        while self._heap and self._heap[0][0] <= time.monotonic():
            heapq.heappop(self._heap)[2]()

    def run_all(self) -> None:
        """Now, however late it was planned for."""
        while self._heap:
            heapq.heappop(self._heap)[2]()


@dataclass(frozen=True)
class Interruption:
    """A kill that hit a live training."""

    role: str
    run_id: str
    attempt: int
    at: float
    """CLOCK_BOOTTIME, as in the oracle's logs."""


@dataclass
class Faults:
    """Draws faults, carries them out, and plans what makes up for them."""

    parts: Parts
    database: DatabaseServer
    dice: Random
    agenda: Agenda
    say: Callable[[str], None]
    counts: Counter[str] = field(default_factory=Counter)
    interruptions: list[Interruption] = field(default_factory=list)
    _stopped: set[int] = field(default_factory=set)
    _next_start: float = 0.0

    @property
    def home(self) -> Path:
        return self.parts.settings.home

    def strike(self) -> None:
        """One fault; another one is drawn when the first finds no target."""
        while True:
            fault = self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            done = self._carry_out(*fault.split(" ", 1))
            if done is not None:
                self.counts[fault] += 1
                self.say(f"{fault}: {done}")
                return

    def _carry_out(self, act: str, target: str) -> str | None:
        if act == "flush":
            return self._flush()
        if act == "disturb":
            return self.database.disturb(self.dice, self.agenda.later)
        if target in (Role.GUARD, Role.TRAINER):
            return self._hit_attempt(act, Role(target))
        return self._kill_part(target) if act == "kill" else self._stop_part(target)

    def _kill_part(self, kind: str) -> str | None:
        part = self._draw_part(kind)
        if part is None:
            return None
        self._note_interruptions("worker", [found for found in self._live(Role.GUARD)
                                            if found.parent == part.pid])  # fmt: skip
        self._stopped.discard(part.pid)
        part.kill()
        self.agenda.later(self._pause_before_start(part), part.start)
        return part.name

    def _stop_part(self, kind: str) -> str | None:
        part = self._draw_part(kind)
        if part is None or part.pid in self._stopped or not part.send(signal.SIGSTOP):
            return None
        handle = Handle(part.pid)
        return f"{part.name} for {self._continue_later(handle):.1f} s"

    def _hit_attempt(self, act: str, role: Role) -> str | None:
        targets = [found for found in self._live(role) if found.pid not in self._stopped]
        if not targets:
            return None
        found = self.dice.choice(targets)
        handle = Handle.of(found, self.home)
        if handle is None:
            return None
        where = f"{found.run_id} attempt {found.attempt}"
        if act == "stop":
            handle.send(signal.SIGSTOP)
            return f"{where} for {self._continue_later(handle):.1f} s"
        self._note_interruptions(role.value, [found])
        return where if handle.send(signal.SIGKILL) else None

    def _flush(self) -> str | None:
        try:
            with Redis(unix_socket_path=str(self.parts.settings.redis_socket)) as redis:
                redis.flushall()
        except RedisError:
            return None
        return "all messages lost"

    def _live(self, role: Role) -> Sequence[Found]:
        return [found for found in of_attempts(self.home) if found.role is role]

    def _draw_part(self, kind: str) -> Part | None:
        parts = self.parts
        of_kind = {"worker": parts.workers, "api": [parts.api], "redis": [parts.redis]}[kind]
        up = [part for part in of_kind if part.is_up]
        return self.dice.choice(up) if up else None

    def _pause_before_start(self, part: Part) -> float:
        pause = self.dice.uniform(0.1, 1.5)
        if part not in self.parts.workers:
            return pause
        at = max(time.monotonic() + pause, self._next_start)
        self._next_start = at + WORKER_START_EVERY
        return at - time.monotonic()

    def _continue_later(self, handle: Handle) -> float:
        settings = self.parts.settings
        until_taken = settings.lease_seconds + settings.lease_grace_seconds
        long = self.dice.random() < LONG_STOP_SHARE
        seconds = (until_taken if long else 0) + self.dice.uniform(0.2, 3)
        self._stopped.add(handle.pid)
        self.agenda.later(seconds, lambda: self._continue(handle))
        return seconds

    def _continue(self, handle: Handle) -> None:
        self._stopped.discard(handle.pid)
        handle.send(signal.SIGCONT)

    def _note_interruptions(self, role: str, guards: Sequence[Found]) -> None:
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.interruptions += [Interruption(role, it.run_id, it.attempt, at) for it in guards]
