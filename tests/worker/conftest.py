"""A worker's bench over real SQLite, with a stand-in for Axolotl under the real guard.

What Axolotl itself does is tested in tests/e2e; here the question is what the worker makes
of a trainer that does this or that.
"""

import json
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finlora_core.adapters.store import AdapterStore
from finlora_core.datasets.check import check_dataset
from finlora_core.db.models import Run
from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.lifecycle import Order
from finlora_core.settings import Settings
from finlora_core.training.axolotl import Hardware
from tests.support import FORM, make_config, write_dataset
from tests.worker.hub import Hub
from worker.bench import Bench

GOOD = """
from tests.lora import write_adapter
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
    from tests.lora import PROBE
    facts = {"steps": 1, "metrics": {"train_loss": 0.5}, "probe": PROBE}
    (root / "completed.json").write_text(json.dumps(facts))
print("training with", sys.executable, flush=True)
"""

STEPPING = """
import re, struct, zipfile
def note(text):
    with (root.parent / "history.txt").open("a") as file:
        file.write(text + "\\n")
def checkpoint(step):
    folder = output / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    tensors = struct.pack("<Q", len(header)) + header + struct.pack("<f", step)
    (folder / "adapter_model.safetensors").write_bytes(tensors)
    (folder / "adapter_config.json").write_text("{}")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("data", str(step))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    with (root / "saved.jsonl").open("a") as file:
        file.write(json.dumps({"step": step}) + "\\n")
def resumed():
    found = re.search("^resume_from_checkpoint: (.*)$", (root / "axolotl.yaml").read_text(), re.M)
    if found is None:
        return 0
    return json.loads((Path(found[1]) / "trainer_state.json").read_text())["global_step"]
def train(steps, pace=0.02, every=3):
    start = resumed()
    note(f"from {start}")
    for step in range(start + 1, steps + 1):
        time.sleep(pace)
        progress(step=step, max_steps=steps, percent=100 * step / steps)
        note(str(step))
        if (root / "stop_requested").exists() and step < steps:
            checkpoint(step)
            (root / "stopped.json").write_text(json.dumps({"step": step}))
            sys.exit(0)
        if step % every == 0:
            checkpoint(step)
    save_adapter()
    complete()
def save_adapter(**how):
    from tests.lora import write_adapter
    write_adapter(output, **how)
"""
"""A trainer that saves checkpoints, goes on from them, and stops when it is asked to."""

BenchWith = Callable[[str], Bench]


@pytest.fixture
def bench_with(settings: Settings, sqlite: Database, tmp_path: Path) -> BenchWith:
    """A bench whose trainer runs the given Python lines."""

    def build(trainer: str) -> Bench:
        script = tmp_path / "trainer.py"
        here = f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n"
        script.write_text(here + PROLOGUE + STEPPING + textwrap.dedent(trainer))
        settings.runs.mkdir(parents=True, exist_ok=True)
        return Bench(
            settings=settings,
            database=sqlite,
            store=AdapterStore(settings.adapters),
            hardware=Hardware.CPU,
            owner="test",
            train_command=lambda files, processes: [sys.executable, str(script)],
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
        write_dataset(settings.datasets[0] / "train.jsonl"), FORM, shown_as="train.jsonl"
    )
    with sqlite.transaction() as session:
        order = Order(name="sentiment")
        run = lifecycle.create_run(session, make_config(), order, dataset=facts, now=now(session))
        return run.id


@pytest.fixture
def seen(sqlite: Database, run_id: str) -> Callable[[], Run]:
    """The run as a reader sees it now."""

    def read() -> Run:
        with sqlite.reading() as session:
            return queries.get_any_run(session, run_id)

    return read


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
