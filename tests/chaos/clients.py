"""People who use the service while it breaks: they try again until they have an answer."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from tests.support import BASE_MODEL, bearer

NAMES = ("alpha", "beta", "gamma")
"""Few, so that runs race for the versions of a name."""

CANCELLED_SHARE = 0.08
PAUSED_SHARE = 0.2

_Act = Callable[[], None]


@dataclass
class Ledger:
    """What the service has promised, and what was asked of it. Written by many threads."""

    accepted: set[str] = field(default_factory=set)
    """Ids of all runs that a POST was answered 201 for."""
    cancels: set[str] = field(default_factory=set)
    """Runs somebody asked to cancel, whether an answer came or not."""
    pauses: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    """How often each kind of answer came."""
    surprises: list[str] = field(default_factory=list)
    """Answers that no fault explains."""


@dataclass
class Phase:
    """What the harness tells the clients."""

    wanted: int = 0
    """Runs that may still be posted."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    posting_is_over: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)

    def take(self) -> bool:
        """Whether the caller may post a run."""
        with self._lock:
            self.wanted -= 1
            return self.wanted >= 0


class Client(threading.Thread):
    """Posts runs while more are wanted; cancels some of them, pauses and resumes some."""

    def __init__(
        self, url: str, key: str, ledger: Ledger, numbers: "itertools.count[int]", dice: Random,
        phase: Phase,
    ) -> None:  # fmt: skip
        super().__init__(name="client", daemon=True)
        self._http = httpx.Client(base_url=url, timeout=4, headers=bearer(key))
        self._ledger = ledger
        self._numbers = numbers
        self._dice = dice
        self._phase = phase
        self._duties: list[tuple[float, _Act]] = []

    def run(self) -> None:
        while self._duties or not self._phase.posting_is_over.is_set():
            if self._phase.take():
                self._post()
            self._do_what_is_due()
            time.sleep(self._dice.uniform(0.05, 0.2))
        self._http.close()

    def _post(self) -> None:
        number = next(self._numbers)
        config = {
            "base_model": BASE_MODEL,
            "dataset_path": "train.jsonl",
            "name": self._dice.choice(NAMES),
            "seed": number,
        }
        # one key for all tries: whoever keeps keys makes one run of them
        answer = self._insist(
            "POST", "/runs", json=config, headers={"Idempotency-Key": f"{number}"}
        )
        if answer is None or answer.status_code != 201:
            return
        run_id = answer.json()["id"]
        self._ledger.accepted.add(run_id)
        fate = self._dice.random()
        if fate < CANCELLED_SHARE:
            self._plan(4, lambda: self._cancel(run_id))
        elif fate < CANCELLED_SHARE + PAUSED_SHARE:
            self._plan(4, lambda: self._pause(run_id))

    def _cancel(self, run_id: str) -> None:
        self._ledger.cancels.add(run_id)
        self._insist("POST", f"/runs/{run_id}/cancel")

    def _pause(self, run_id: str) -> None:
        answer = self._insist("POST", f"/runs/{run_id}/pause")
        if answer is None or answer.status_code != 404:
            self._ledger.pauses.add(run_id)
            self._plan(3, lambda: self._resume(run_id))

    def _resume(self, run_id: str) -> None:
        self._insist("POST", f"/runs/{run_id}/resume")

    def _plan(self, within: float, act: _Act) -> None:
        self._duties.append((time.monotonic() + self._dice.uniform(0, within), act))

    def _do_what_is_due(self) -> None:
        due = [duty for duty in self._duties if duty[0] <= time.monotonic()]
        for duty in due:
            self._duties.remove(duty)
            duty[1]()

    def _insist(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """The first answer that is not an outage; None when nobody waits for one any more."""
        while (answer := self._try(method, path, **request)) is None:
            if self._phase.is_over.wait(self._dice.uniform(0.1, 0.4)):
                return None
        return answer

    def _try(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        kind = path.rsplit("/", 1)[-1]
        try:
            answer = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            self._ledger.answers[f"{kind} {type(error).__name__}"] += 1
            return None
        self._ledger.answers[f"{kind} {answer.status_code}"] += 1
        if answer.status_code not in (201, 202, 404, 409, 503):
            self._ledger.surprises.append(f"{path}: {answer.status_code} {answer.text[:500]}")
        return None if answer.status_code >= 500 else answer
