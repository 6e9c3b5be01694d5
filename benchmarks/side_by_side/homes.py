"""Homes of the service with many runs in them, and an adapter to download."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.side_by_side import seed
from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.adapters import registry
from finlora_core.adapters.manifest import PUBLISHED, WEIGHTS, describe
from finlora_core.adapters.registry import Identity
from finlora_core.adapters.store import AdapterStore
from finlora_core.datasets.cache import DatasetChecker
from finlora_core.datasets.locate import locate_dataset
from finlora_core.db.migrate import migrate
from finlora_core.db.models import Run
from finlora_core.db.pages import page
from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle
from finlora_core.runs.config import RunRequest
from finlora_core.runs.lifecycle import Order
from finlora_core.settings import Settings
from tests.support import write_dataset

CONFIG: Mapping[str, Any] = {
    "base_model": "meta-llama/Llama-3.1-8B-Instruct",
    "dataset_path": "../data/train/finlora_sentiment_train.jsonl",
    "lora_r": 8,
    "quant_bits": 8,
    "learning_rate": 0.0001,
    "num_epochs": 4,
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
}
"""FinLoRA's sentiment_llama_3_1_8b_8bits_r8."""

ROWS = 1000
"""Of the dataset."""

NAMES = 1000
"""Different names among the runs."""

DEPTHS = 50
IDS = 1000
PAGE = 50
"""Rows, as GET /runs answers by itself."""

PIECE = 1024 * 1024

_ENDED = "CASE WHEN n % 10 = 0 THEN NULL ELSE {time} END"
_STATUS = """CASE n % 10 WHEN 0 THEN 'queued' WHEN 8 THEN 'failed' WHEN 9 THEN 'cancelled'
ELSE 'succeeded' END"""
_VARIANT = "CASE n % 3 WHEN 0 THEN '4bits_r4' WHEN 1 THEN '8bits_r8_dora' ELSE one.variant END"


@dataclass(frozen=True)
class Home:
    """One with rows in it."""

    settings: Settings
    runs: int
    ids: Sequence[str]
    """Of some of the runs, at all depths."""
    cursors: Sequence[str]
    """Of pages at all depths."""


def prepare(settings: Settings, runs: int) -> Home:
    """A tenth of the runs waits; of the others, 7 in 9 have succeeded."""
    write_dataset(settings.datasets[0] / "lora" / CONFIG["dataset_path"], ROWS)
    database = Database.connect(settings.database)
    migrate(database)
    _add_one(database, settings)
    _multiply(database, runs - 1)
    with database.reading() as session:
        cursors = _cursors(session, runs)
        ids = _ids(session, cursors)
    database.close()
    return Home(settings, runs, ids, cursors)


def publish_adapter(settings: Settings, folder: Path, size: int) -> str:
    """An adapter whose weights are so many random bytes; its id."""
    output = folder / "adapter"
    output.mkdir()
    (output / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with (output / WEIGHTS).open("wb") as weights:
        for _ in range(size // PIECE):
            weights.write(secrets.token_bytes(PIECE))
    store, id = AdapterStore(settings.adapters), registry.imported_id()
    store.publish(id, store.stage(id, output))
    identity = Identity("sentiment", "8bits_r8", CONFIG["base_model"], DEFAULT_OWNER)
    database = Database.connect(settings.database)
    with database.transaction() as session:
        files = describe(store.folder(id), PUBLISHED)
        registry.add_imported(session, identity, id, files, now=now(session))
    database.close()
    return id


def _add_one(database: Database, settings: Settings) -> None:
    """As POST /runs does."""
    request = RunRequest.model_validate(CONFIG)
    path = locate_dataset(request.dataset_path, settings.datasets)
    facts = DatasetChecker().facts(path, request.prompt_format, shown_as=request.dataset_path)
    with database.transaction() as session:
        order = Order(name=request.run_name)
        lifecycle.create_run(session, request.config, order, dataset=facts, now=now(session))


def _multiply(database: Database, count: int) -> None:
    engine = database.engine
    created = seed.earlier(engine, "created_at")
    differing = {
        "id": f"substr(one.id, 1, 16) || {seed.scrambled(engine)}",
        "name": f"'sentiment_' || (n % {NAMES})",
        "variant": _VARIANT,
        "status": _STATUS,
        "created_at": created,
        "queued_at": created,
        "not_before": created,
        "started_at": _ENDED.format(time=created),
        "finished_at": _ENDED.format(time=created),
        "attempt": "CASE WHEN n % 10 = 0 THEN 0 ELSE 1 END",
    }
    seed.multiply(engine, "runs", count, differing)
    seed.settle(engine)


def _cursors(session: Session, runs: int) -> Sequence[str]:
    newest = session.execute(select(func.max(Run.created_at))).scalar_one()
    ages = [1 + depth * (runs - 2 * PAGE) // DEPTHS for depth in range(DEPTHS)]
    firsts = [select(Run).where(Run.created_at <= newest - timedelta(seconds=age)) for age in ages]
    pages = [page(session, first, Run, None, 1) for first in firsts]
    return [each.next_cursor for each in pages if each.next_cursor]


def _ids(session: Session, cursors: Sequence[str]) -> Sequence[str]:
    pages = [page(session, select(Run), Run, cursor, IDS // DEPTHS) for cursor in cursors]
    return [run.id for each in pages for run in each.rows]
