"""`finlora evaluate`: what it posts, how it waits, and the tables that it shows."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.answers import answer
from tests.cli.conftest import Finlora, Publish
from tests.support import BASE_MODEL, bearer, eventually

TARGETS = ("positive", "negative", "positive", "neutral")
imports_typer = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of click, in typer
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"

Ask = Callable[[str], Any]
Watch = Callable[..., "subprocess.Popen[str]"]


def write_rows(path: Path) -> Path:
    rows = ({"context": f"Row {n}.", "target": target} for n, target in enumerate(TARGETS))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def held_out(settings: Settings) -> Path:
    return write_rows(settings.datasets[0] / "tfns_test.jsonl")


@pytest.fixture
def ask(url: str, key: str) -> Ask:
    return lambda path: httpx.get(f"{url}{path}", headers=bearer(key)).json()


@pytest.fixture
def watch(url: str, key: str) -> Watch:
    """Starts `finlora evaluate …`, which waits."""

    def watch(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "finlora_core.cli", "evaluate", *arguments],
            env={**os.environ, "FINLORA_URL": url, "FINLORA_API_KEY": key},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return watch


def posted(ask: Ask) -> str:
    """The id of the one evaluation, as soon as it is there."""
    assert eventually(lambda: bool(ask("/evaluations")["data"]))
    (evaluation,) = ask("/evaluations")["data"]
    id: str = evaluation["id"]
    return id


def cells(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())


def test_it_waits_and_shows_each_model_with_its_interval(
    finlora: Finlora,
    publish: Publish,
    ask: Ask,
    watch: Watch,
    held_out: Path,
    sqlite: Database,
    settings: Settings,
) -> None:
    adapter = publish()
    watching = watch("sentiment", "--task", "tfns", "--base")
    id = posted(ask)
    answer(sqlite, settings, id, ["", "?", "positive", "positive"], ["positive"] * 3 + ["neutral"])
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0, err
    assert f"Posted {id} (tfns)" in out
    heads, base, trained = out.splitlines()[-3:]
    assert cells(heads)[:6] == ["model", "variant", "set", "metric", "value", "95 % interval"]
    _, judged = ask(f"/evaluations/{id}")["results"]
    low, high = 100 * judged["low"], 100 * judged["high"]
    figures = ["75.0 %", f"[{low:.1f}, {high:.1f}]", f"{judged['summary']['f1_weighted']:.3f}"]
    assert cells(trained) == ["sentiment v1", adapter.variant, "tfns", "accuracy", *figures, "4"]
    assert base.split()[:3] == [BASE_MODEL, "tfns", "accuracy"]
    assert cells(base)[-1] == "2 unread, 1 empty"
    shown = finlora("status", id).stdout
    assert shown.splitlines()[-3:] == [heads, base, trained]
    assert "succeeded" in finlora("evaluations").stdout.splitlines()[1]


def test_finloras_figures_stand_beside_where_base_model_and_variant_are_the_same(
    finlora: Finlora,
    publish: Publish,
    ask: Ask,
    held_out: Path,
    sqlite: Database,
    settings: Settings,
) -> None:
    publish(base_model=LLAMA, quant_bits=8)
    done = finlora("evaluate", "sentiment", "--all-tasks", "--no-wait")
    assert done.returncode == 0, done.stderr
    skipped = [line for line in done.stdout.splitlines() if line.startswith("Skipped ")]
    assert "Skipped fpb: there is no ../data/test/fpb_test.jsonl or fpb_test.jsonl" in skipped
    assert not any("tfns" in line for line in skipped)
    id = posted(ask)
    answer(sqlite, settings, id, TARGETS)
    heads, row = finlora("status", id).stdout.splitlines()[-2:]
    assert cells(heads)[3:] == [
        "figure", "here", "FinLoRA", "difference", "F1", "FinLoRA", "difference",
    ]  # fmt: skip
    assert cells(row)[2:] == [
        "tfns", "accuracy", "100.0 %", "88.0 %", "+12.0", "1.000", "0.932", "+0.068",
    ]  # fmt: skip


def test_without_any_test_set_all_tasks_is_refused(finlora: Finlora, ask: Ask) -> None:
    refused = finlora("evaluate", "--base-model", LLAMA, "--all-tasks")
    assert (refused.returncode, "dataset_not_found" in refused.stderr) == (1, True)
    assert ask("/evaluations")["data"] == []


def test_rows_of_ones_own_are_uploaded_unless_the_service_sees_them(
    finlora: Finlora, ask: Ask, held_out: Path, tmp_path: Path
) -> None:
    mine = write_rows(tmp_path / "mine.jsonl")
    for file in (mine, held_out):
        own = ("--data", file, "--metric", "accuracy", "--labels", "positive, negative,neutral")
        done = finlora("evaluate", "--base-model", LLAMA, *own, "--no-wait")
        assert done.returncode == 0, done.stderr
        assert ("Uploaded mine.jsonl as dataset_" in done.stdout) == (file == mine)
    configs = [each["config"]["tasks"][0] for each in ask("/evaluations")["data"]]
    assert [each["labels"] for each in configs] == [["positive", "negative", "neutral"]] * 2
    assert configs[0]["dataset_path"] == str(held_out)
    assert configs[1]["dataset_path"].startswith("dataset_")


def test_ctrl_c_leaves_it_in_line_and_a_cancel_ends_the_waiting(
    finlora: Finlora, ask: Ask, watch: Watch, held_out: Path
) -> None:
    arguments = ("--base-model", LLAMA, "--task", "tfns", "--limit", "2", "--seed", "7")
    left = watch(*arguments)
    assert left.stdout is not None
    first = [left.stdout.readline() for _ in range(2)]
    assert first[1] == "  tfns: queued, next\n"
    left.send_signal(signal.SIGINT)
    out = left.communicate(timeout=60)[0]
    id = posted(ask)
    assert left.returncode == 130
    for command in ("logs", "status", "cancel"):
        assert f"finlora {command} {id} --url" in out
    config = ask(f"/evaluations/{id}")["config"]
    assert (config["limit"], config["seed"], config["batch_size"]) == (2, 7, 32)
    assert finlora("logs", id).returncode == 0
    assert finlora("cancel", id).stdout == f"{id} (tfns): cancelled\n"
    waiting = watch(*arguments)
    assert eventually(lambda: len(ask("/evaluations")["data"]) == 2)
    id = ask("/evaluations")["data"][0]["id"]
    finlora("cancel", id)
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert err.startswith(f"cancelled: tfns ({id})")


def test_names_that_nobody_has_get_the_close_ones(
    finlora: Finlora, publish: Publish, held_out: Path
) -> None:
    publish()
    refused = finlora("evaluate", "sentimet", "--task", "tfns")
    assert (refused.returncode, "close to it of 1: sentiment" in refused.stderr) == (1, True)
    refused = finlora("evaluate", "sentiment", "--task", "tfnss")
    assert (refused.returncode, "tasks.0.task" in refused.stderr) == (1, True)
    assert "tfns" in refused.stderr
    refused = finlora("evaluate", "sentiment", "--task", "fpb")
    assert (refused.returncode, "fpb_test.jsonl; put it there" in refused.stderr) == (1, True)


@imports_typer
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name adapters"),
        (("a",), "--all-tasks"),
        (("a", "--task", "tfns", "--all-tasks"), "--all-tasks"),
        (("--base", "--task", "tfns"), "none is named"),
        (("a", "--base", "--base-model", LLAMA, "--task", "tfns"), "two words"),
        (("a", "--metric", "accuracy"), "--data FILE"),
        (("a", "--data", "x.jsonl", "--all-tasks"), "--metric"),
        (("a", "--data", "x.jsonl", "--task", "tfns", "--task", "fpb"), "--metric"),
        (("a", "--data", "x.jsonl", "--metric", "bleu"), "rouge_l"),
    ],
)
def test_words_that_do_not_go_together_are_told_at_once(
    arguments: tuple[str, ...], said: str
) -> None:
    from typer.testing import CliRunner

    from finlora_core.cli import app

    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["evaluate", *arguments])
    assert done.exit_code == 2
    assert said in done.output


@imports_typer
def test_an_evaluation_tells_its_progress_in_rows() -> None:
    from finlora_core.cli.progress import run_words

    seen = {
        "id": "eval_1",
        "status": "running",
        "phase": "evaluating",
        "cancel_requested": False,
        "progress": {"rows": 320, "all_rows": 1000, "percent": 32.0, "eta_seconds": 21.4},
    }
    assert run_words(seen) == (320, 1000, "evaluating  row 320/1000 (32 %)  21 s left")
