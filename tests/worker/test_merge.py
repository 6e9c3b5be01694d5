"""Real adapters are merged into a real base: what a worker makes of a merge."""

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from finlora_core.access.keys import Caller
from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.access.quota import UNLIMITED
from finlora_core.access.scopes import ALL
from finlora_core.adapters import registry
from finlora_core.adapters.store import AdapterStore
from finlora_core.adapters.verify import verify
from finlora_core.datasets.cache import DatasetChecker
from finlora_core.db.models import MergedModel, Run
from finlora_core.db.session import Database, now
from finlora_core.errors import LeaseLost, NotFound
from finlora_core.merging import results
from finlora_core.merging.config import MAX_KL, MIN_TOP1_AGREEMENT, MergeRequest
from finlora_core.merging.posting import create_merge
from finlora_core.merging.probes import find_default, find_probe, training_of
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.kind import RunKind
from finlora_core.runs.status import RunStatus
from finlora_core.settings import Settings
from finlora_core.training.axolotl import Hardware
from tests.merges import FIGURES
from tests.service import publish
from tests.support import eventually, make_config, write_dataset
from tests.worker.test_merger import make_adapter
from worker.attempt import work_until_idle
from worker.bench import Bench
from worker.prepare import MIB

pytestmark = pytest.mark.training

Post = Callable[..., str]


@pytest.fixture
def settings(settings: Settings, tiny_base: Path) -> Settings:
    return settings.model_copy(update={"models_dirs": (tiny_base,)})


@pytest.fixture
def bench(settings: Settings, sqlite: Database) -> Bench:
    settings.runs.mkdir(parents=True)
    store = AdapterStore(settings.adapters)
    return Bench(settings, sqlite, store, Hardware.CPU, owner="w")


@pytest.fixture
def post(sqlite: Database, settings: Settings) -> Post:
    caller = Caller(owner=DEFAULT_OWNER, key_id="k", scopes=frozenset(ALL), quota=UNLIMITED)

    def post(adapter_id: str, **keys: Any) -> str:
        request, checker = MergeRequest.model_validate(keys), DatasetChecker()
        with sqlite.transaction() as session:
            adapter = registry.get_adapter(session, DEFAULT_OWNER, adapter_id)
            trained_on = training_of(session, adapter)
            if request.dataset_path is None:
                probe = find_default(trained_on, DEFAULT_OWNER, settings, checker)
            else:
                probe = find_probe(request.dataset_path, DEFAULT_OWNER, settings, checker)
            at = now(session)
            return create_merge(session, request, adapter, caller, probe, now=at).id

    return post


@pytest.fixture
def adapter(sqlite: Database, bench: Bench, tiny_adapter: Path) -> str:
    return publish(sqlite, bench.store, tiny_adapter, make_config(quant_bits=None)).id


def seen(database: Database, id: str) -> Run:
    with database.reading() as session:
        return queries.get_run(session, DEFAULT_OWNER, id, RunKind.MERGE)


def model_of(database: Database, id: str) -> MergedModel | None:
    with database.reading() as session:
        try:
            return results.get_merged_model(session, DEFAULT_OWNER, id)
        except NotFound:
            return None


def test_a_merged_model_is_published_measured_and_listed(
    bench: Bench, sqlite: Database, post: Post, tiny_base: Path, tmp_path: Path
) -> None:
    output = make_adapter(tiny_base, tmp_path / "adapter", use_dora=True)
    adapter = publish(sqlite, bench.store, output, make_config(quant_bits=8)).id
    id = post(adapter, min_top1_agreement=0.8)  # it has learnt nothing: all tokens are as likely
    work_until_idle(bench)
    run, model = seen(sqlite, id), model_of(sqlite, id)
    assert run.status is RunStatus.SUCCEEDED, (run.error_code, run.error_hint, run.error_log)
    assert model is not None
    assert (model.adapter_id, model.overridden) == (adapter, None)
    folder = bench.merged.folder(model.id)
    assert verify(folder) == []
    listed = {file["path"] for file in model.files}
    assert listed == {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= listed
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["adapter_id"], manifest["quant_bits"]) == (adapter, 8)
    assert manifest["fidelity"] == model.fidelity
    progress = run.progress or {}
    assert progress["step"] == progress["max_steps"]
    left = {path.name for path in (bench.settings.runs / id / "attempt-1").iterdir()}
    assert not left & {"output", "prepared"}


def test_a_base_that_is_nowhere_is_named(
    bench: Bench, settings: Settings, sqlite: Database, tiny_adapter: Path, post: Post
) -> None:
    config = make_config(base_model="nobody/nothing", quant_bits=None)
    id = post(publish(sqlite, bench.store, tiny_adapter, config).id)
    away = settings.model_copy(update={"hf_endpoint": "http://127.0.0.1:9"})
    work_until_idle(replace(bench, settings=away))
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "base_model_not_found")
    assert "nobody/nothing" in (run.error_hint or "")


def test_an_adapter_that_is_gone_meanwhile_is_named(
    bench: Bench, sqlite: Database, adapter: str, post: Post
) -> None:
    id = post(adapter)
    (bench.store.folder(adapter) / "adapter_model.safetensors").unlink()
    work_until_idle(bench)
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "adapter_unreadable")
    assert adapter in (run.error_hint or "")


def test_an_adapter_with_added_tokens_is_told_what_can_be_done(
    bench: Bench, sqlite: Database, post: Post, tiny_base: Path, tmp_path: Path
) -> None:
    output = make_adapter(tiny_base, tmp_path / "adapter", added_tokens=8)
    adapter = publish(sqlite, bench.store, output, make_config(quant_bits=None)).id
    id = post(adapter)
    work_until_idle(bench)
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "added_tokens")
    assert adapter in (run.error_hint or "")
    assert published(bench) == []


def test_rows_that_changed_since_they_were_posted_are_not_measured_on(
    bench: Bench, settings: Settings, sqlite: Database, adapter: str, post: Post
) -> None:
    rows = write_dataset(settings.datasets[0] / "rows.jsonl", 2)
    id = post(adapter, dataset_path="rows.jsonl")
    write_dataset(rows, 3)
    work_until_idle(bench)
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "dataset_changed")


def test_without_room_for_the_model_in_16_bits_nothing_is_begun(
    bench: Bench, sqlite: Database, adapter: str, post: Post
) -> None:
    id = post(adapter)
    with patch("worker.prepare.shutil.disk_usage", return_value=SimpleNamespace(free=MIB)):
        work_until_idle(bench)
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "insufficient_disk")
    assert "1 MiB are free" in (run.error_hint or "")
    assert published(bench) == []


# With a stand-in for the process that merges


def saying(bench: Bench, lines: str, **figures: float) -> Bench:
    """Its process leaves a model that is as near as `figures` say, and then does `lines`."""
    script = bench.settings.home / "merger.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n"
        "import json, os, time\n"
        "from pathlib import Path\n"
        "from tests.merges import write_model\n"
        "root = Path(os.environ['FINLORA_ATTEMPT_DIR'])\n"
        "write_model(root / 'output')\n"
        f"figures = { ({**FIGURES, **figures})!r}\n"
        "def complete():\n"
        "    (root / 'completed.json').write_text(json.dumps(figures))\n" + lines
    )
    return replace(bench, merge_command=(sys.executable, str(script)))


def published(bench: Bench) -> list[str]:
    places = (bench.settings.adapters / ".merged", bench.settings.adapters / ".staging")
    return [path.name for place in places if place.is_dir() for path in place.iterdir()]


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"kl": MAX_KL * 1.01}, "nats a token"),
        ({"top1_agreement": MIN_TOP1_AGREEMENT - 0.01}, "likeliest"),
    ],
)
def test_a_model_that_is_not_near_enough_is_not_published(
    bench: Bench,
    sqlite: Database,
    adapter: str,
    post: Post,
    figures: dict[str, float],
    words: str,
) -> None:
    id = post(adapter)
    work_until_idle(saying(bench, "complete()", **figures))
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "merge_not_faithful")
    assert words in (run.error_hint or "")
    assert model_of(sqlite, id) is None
    assert published(bench) == []


def test_unless_somebody_says_why(
    bench: Bench, sqlite: Database, adapter: str, post: Post
) -> None:
    id = post(adapter, override="only | for the demo")
    work_until_idle(saying(bench, "complete()", kl=1.0))
    run, model = seen(sqlite, id), model_of(sqlite, id)
    assert run.status is RunStatus.SUCCEEDED, (run.error_code, run.error_log)
    assert model is not None
    assert "KL 1 nats a token" in (model.overridden or "")
    card = (bench.merged.folder(model.id) / "README.md").read_text()
    assert "only \\| for the demo" in card


def test_limits_of_ones_own_decide(
    bench: Bench, sqlite: Database, adapter: str, post: Post
) -> None:
    ids = [post(adapter, max_kl=1.0), post(adapter, max_kl=0.5)]
    work_until_idle(saying(bench, "complete()", kl=0.75))
    assert [seen(sqlite, id).status for id in ids] == [RunStatus.SUCCEEDED, RunStatus.FAILED]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("sys.exit(3)", "merge_error"),
        ("(root / 'completed.json').write_text('{}')", "merge_error"),
        ("figures['kl'] = float('nan'); complete()", "merge_error"),
        ("(root / 'output/model.safetensors').unlink(); complete()", "merge_error"),
        ("(root / 'output/model.safetensors').write_bytes(b'x'); complete()", "merge_error"),
        ("print('torch.OutOfMemoryError: CUDA out of memory'); sys.exit(1)", "cuda_out_of_memory"),
    ],
)
def test_half_a_merge_is_none(
    bench: Bench, sqlite: Database, adapter: str, post: Post, lines: str, code: str
) -> None:
    id = post(adapter)
    work_until_idle(saying(bench, lines))
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, code)
    assert "merge" in (run.error_hint or "").lower()
    assert published(bench) == []


def test_what_the_process_leaves_in_the_place_of_a_file_is_not_published(
    bench: Bench, sqlite: Database, adapter: str, post: Post, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("{}")
    link = f"os.symlink({str(tmp_path / 'secret')!r}, root / 'output/generation_config.json')"
    id = post(adapter)
    work_until_idle(saying(bench, f"{link}\n(root / 'output/x.bin').touch()\ncomplete()"))
    model = model_of(sqlite, id)
    assert model is not None
    paths = {file["path"] for file in model.files}
    assert not paths & {"generation_config.json", "x.bin"}


def test_a_running_merge_can_be_cancelled(
    bench: Bench, sqlite: Database, adapter: str, post: Post
) -> None:
    id = post(adapter)
    worker = threading.Thread(target=work_until_idle, args=[saying(bench, "time.sleep(60)")])
    worker.start()
    assert eventually(lambda: seen(sqlite, id).phase == "merging")
    with sqlite.transaction() as session:
        lifecycle.request_cancel(session, id, now=now(session))
    worker.join(20)
    assert seen(sqlite, id).status is RunStatus.CANCELLED
    assert published(bench) == []


def test_an_attempt_that_lost_its_run_after_publishing_leaves_nothing(
    bench: Bench, sqlite: Database, adapter: str, post: Post
) -> None:
    id = post(adapter)
    with patch.object(results, "store", side_effect=LeaseLost("taken")):
        work_until_idle(saying(bench, "complete()"))
    assert seen(sqlite, id).status is RunStatus.RUNNING
    assert published(bench) == []
