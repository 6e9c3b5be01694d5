"""Small things that many tests need."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finlora_core.access import keys
from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.access.pepper import load_pepper
from finlora_core.access.quota import UNLIMITED, Quota
from finlora_core.access.scopes import ALL
from finlora_core.datasets.check import DatasetFacts
from finlora_core.db.session import Database, now
from finlora_core.runs.config import PromptFormat, RunConfig
from finlora_core.runs.outcome import RetryPolicy
from finlora_core.settings import Settings

POLICY = RetryPolicy(max_crashes=3, backoff=30)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FACTS = DatasetFacts(rows=2, sha256="d" * 64)
BASE_MODEL = "finlora/tiny-llama"
CANARY = "c4n4ry"
"""In every secret of a test that looks where secrets go."""
FORM = PromptFormat.INSTRUCTION


def make_config(**keys: Any) -> RunConfig:
    """A run config; `keys` replace or add to what it needs."""
    return RunConfig(**{"base_model": BASE_MODEL, "dataset_path": "train.jsonl", **keys})


def make_key(
    database: Database,
    settings: Settings,
    *,
    owner: str = DEFAULT_OWNER,
    scopes: Any = ALL,
    quota: Quota = UNLIMITED,
) -> str:
    """An API key, as its owner is given it."""
    pepper = load_pepper(settings)
    with database.transaction() as session:
        at = now(session)
        _, text = keys.create(
            session, pepper, name="test", owner=owner, scopes=scopes, now=at, quota=quota
        )
        return text


def bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def write_dataset(path: Path, rows: int = 2) -> Path:
    lines = [{"context": f"Profit rose to {n}. ", "target": "positive"} for n in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def eventually(is_true: Callable[[], bool], *, seconds: float = 20) -> bool:
    """Poll, for facts whose time other processes decide."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class ListQueue:
    """A queue that is a list; `up = False` is a broker that is down."""

    def __init__(self) -> None:
        self.offered: list[str] = []
        self.up = True
        self.is_full = False

    def offer(self, run_id: str) -> bool:
        if self.up:
            self.offered.append(run_id)
        return self.up

    def count_workers(self) -> int | None:
        return 1 if self.up else None
