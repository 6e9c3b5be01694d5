"""Rows a second of an evaluation beside FinLoRA's way: `make bench-evaluation`.

The same errand, the demo's adapter on the demo's tiny base in full precision, is done by the
service's process (`worker.evaluator`) and by one that does as FinLoRA's test scripts do: the
model loaded for each task, one row at a time (`benchmarks.finlora_way`). Same rows, same prompts,
same number of new tokens, each in a process of its own, in turns. Two clocks: `ratio` counts from
the imports on, models loaded and answers written on both sides; `ratio_of_processes` counts all,
the start of Python and its imports, too. What neither has in it is the judging of the answers.

`--data DIR` takes FinLoRA's tfns and fiqa test sets from a folder, else the demo's held-out rows
are asked. The last line is JSON; the exit status is 0 when both sides have answered the same.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from finlora_core.datasets.cache import DatasetChecker
from finlora_core.evaluation.config import EvaluationConfig
from finlora_core.evaluation.sets import find_sets
from finlora_core.settings import load_settings
from finlora_core.training.axolotl import Hardware
from finlora_core.training.files import AttemptFiles
from worker.environment import trainer_environment
from worker.errand import Answer, Asked, Errand, Questions

DEMO = Path(".finlora") / "demo"
BASE = DEMO / "models" / "finlora" / "tiny-llama"
HELD_OUT = Path("demo") / "data" / "sentiment_heldout.jsonl"
ROUNDS = 3
SIDES = {"service": "worker.evaluator", "finlora": "benchmarks.finlora_way"}

Answers = Mapping[tuple[int, int], str]
"""By set and row."""


@dataclass(frozen=True)
class Done:
    answering: float
    """Seconds from the imports on."""
    process: float
    """Seconds of the whole process."""
    answers: Answers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation")
    parser.add_argument("--data", type=Path, help="folder with tfns_test.jsonl, fiqa_test.jsonl")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--limit", type=int, help="rows of each set")
    parser.add_argument("--do", choices=SIDES, help="one side, for this program itself")
    wanted = parser.parse_args()
    if wanted.do:
        return do(wanted.do)
    errand = make_errand(wanted.data, wanted.limit)
    print(f"{errand.answers} rows of {len(errand.sets)} sets, {wanted.rounds} rounds", flush=True)
    rounds = [one_round(errand, turn) for turn in range(wanted.rounds)]
    figures = summarise(errand, rounds)
    print(json.dumps(figures))
    return 0 if figures["equal_answers"] == 1 else 1


def make_errand(data: Path | None, limit: int | None) -> Errand:
    tasks: list[dict[str, Any]] = [{"task": "tfns"}, {"task": "fiqa"}]
    if data is None:
        tasks = [{"dataset_path": HELD_OUT.name, "metric": "accuracy"}]
    config = EvaluationConfig.model_validate(
        {"base_model": "finlora/tiny-llama", "tasks": tasks, "limit": limit}
    )
    settings = load_settings(home=DEMO, dataset_roots=str((data or HELD_OUT.parent).resolve()))
    (adapter,) = (DEMO / "downloads").iterdir()
    sets = find_sets(config, "", settings, DatasetChecker())
    return Errand(
        base=BASE.resolve(),
        hardware=Hardware.CPU,
        batch_size=config.batch_size,
        models=(Asked(adapter=adapter.resolve(), quant_bits=None),),
        sets=tuple(
            Questions(
                form=one.form,
                max_new_tokens=one.task.max_new_tokens,
                given=tuple(row.given for row in one.rows(limit, config.seed).rows),
            )
            for one in sets
        ),
    )


def one_round(errand: Errand, turn: int) -> Mapping[str, Done]:
    """Both sides, the other one first each time."""
    order = list(SIDES) if turn % 2 == 0 else list(SIDES)[::-1]
    done = {side: run(side, errand) for side in order}
    for side, it in done.items():
        pace = f"{errand.answers / it.answering:7.1f} rows/s"
        times = f"{it.answering:.1f} s, as a process {it.process:.1f} s"
        print(f"  {side:8} {pace}  ({times}; load {os.getloadavg()[0]:.1f})", flush=True)
    return done


def run(side: str, errand: Errand) -> Done:
    """In an attempt's folder and environment, as a worker would start it."""
    with TemporaryDirectory(prefix="finlora-bench-") as temporary:
        files = AttemptFiles(Path(temporary, "attempt"))
        files.create()
        files.errand.write_text(errand.model_dump_json())
        env = {**trainer_environment(files, temporary, checkpoint_seconds=600)}
        started = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.evaluation", "--do", side],
            env={**env, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,  # what the libraries say of kernels that are not here, too
            text=True,
            check=True,
        )
        process = time.monotonic() - started
        lines = files.answers.read_text().splitlines()
        found = [answer for line in lines if (answer := Answer.parse(line))]
    answers = {(answer.set, answer.row): answer.text for answer in found}
    return Done(float(ended.stdout.splitlines()[-1]), process, answers)


def do(side: str) -> int:
    """What is timed, in a process of its own; its last line is the seconds."""
    module = importlib.import_module(SIDES[side])
    started = time.monotonic()
    module.main()
    print(time.monotonic() - started)
    return 0


def summarise(errand: Errand, rounds: Sequence[Mapping[str, Done]]) -> dict[str, Any]:
    ours, theirs = ([done[side] for done in rounds] for side in SIDES)
    pairs = list(zip(ours, theirs, strict=True))
    same = sum(a.answers[key] == b.answers[key] for a, b in pairs for key in b.answers)
    return {
        "ratio": round(median(b.answering / a.answering for a, b in pairs), 2),
        "ratio_of_processes": round(median(b.process / a.process for a, b in pairs), 2),
        "rows_per_s": round(median(errand.answers / a.answering for a in ours), 1),
        "finlora_rows_per_s": round(median(errand.answers / b.answering for b in theirs), 1),
        "rows": errand.answers,
        "rounds": len(rounds),
        "batch_size": errand.batch_size,
        "equal_answers": same / sum(len(b.answers) for b in theirs),
        "load": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    sys.exit(main())
