"""A worker's bench over real SQLite, with a stand-in for Axolotl under the real guard.

What Axolotl itself does is tested in tests/e2e; here the question is what the worker makes
of a trainer that does this or that.
"""

import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from finlora_core.adapters.store import AdapterStore
from finlora_core.datasets.check import check_dataset
from finlora_core.db.models import Run
from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle, queries
from finlora_core.settings import Settings
from finlora_core.training.axolotl import Hardware
from tests.support import make_config, write_dataset
from worker.bench import Bench

GOOD = """
from tests.support import write_adapter
write_adapter(output)
metric(step=1, loss=0.5)
progress(step=1, max_steps=1, percent=100.0)
complete()
"""

PROLOGUE = """
import json, os, signal, sys, time
from pathlib import Path
root = Path(os.environ["FINLORA_ATTEMPT_DIR"])
output = root / "output"
def metric(**point):
    with (root / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(point) + "\\n")
def progress(**content):
    (root / "progress.json").write_text(json.dumps(content))
def fail(**content):
    (root / "failure.json").write_text(json.dumps(content))
def complete():
    facts = {"steps": 1, "metrics": {"train_loss": 0.5}}
    (root / "completed.json").write_text(json.dumps(facts))
print("training with", sys.executable, flush=True)
"""

BenchWith = Callable[[str], Bench]


@pytest.fixture
def bench_with(settings: Settings, sqlite: Database, tmp_path: Path) -> BenchWith:
    """A bench whose trainer runs the given Python lines."""

    def build(trainer: str) -> Bench:
        script = tmp_path / "trainer.py"
        here = f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n"
        script.write_text(here + PROLOGUE + textwrap.dedent(trainer))
        settings.runs.mkdir(parents=True, exist_ok=True)
        return Bench(
            settings=settings,
            database=sqlite,
            store=AdapterStore(settings.adapters),
            hardware=Hardware.CPU,
            owner="test",
            train_command=lambda files: [sys.executable, str(script)],
        )

    return build


@pytest.fixture
def model(settings: Settings) -> Path:
    """A base model's folder; the stand-in never opens it."""
    folder = settings.models[0] / "finlora" / "tiny-llama"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


@pytest.fixture
def run_id(settings: Settings, sqlite: Database, model: Path) -> str:
    """A queued run whose dataset and base model are in place."""
    facts = check_dataset(
        write_dataset(settings.datasets[0] / "train.jsonl"), shown_as="train.jsonl"
    )
    with sqlite.transaction() as session:
        run = lifecycle.create_run(
            session, make_config(), name="sentiment", dataset=facts, now=now(session)
        )
        return run.id


@pytest.fixture
def seen(sqlite: Database, run_id: str) -> Callable[[], Run]:
    """The run as a reader sees it now."""

    def read() -> Run:
        with sqlite.reading() as session:
            return queries.get_run(session, run_id)

    return read
