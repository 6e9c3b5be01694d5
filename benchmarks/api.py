"""The API beside MLflow's tracking server, a bare route and nginx: `make bench-api`.

All in one run and in turns (A B C, B C A, …), so that they meet the same machine; each goal is
judged by the median over the rounds of what one is to the other within a round, at the number of
connections where that is worst. The service is the API as `finlora up` starts it; MLflow and
the floor get one process too, and a database of the same kind that waits for the disk at each
commit. The last line is JSON; the exit status is 0 when every goal was reached.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import contestants, homes
from benchmarks.side_by_side.course import (
    Course,
    Measure,
    Pace,
    megabytes_per_second,
    p99_ms,
    per_second,
)
from benchmarks.side_by_side.databases import Databases, durability
from benchmarks.side_by_side.races import (
    COMPARED,
    DEEP,
    DOWNLOADS,
    FIRST,
    GET,
    POST,
    RANGES,
    Field,
    races,
)
from finlora_core.settings import load_settings
from finlora_core.stack import free_port

ADAPTER_BYTES = 300 * 1024 * 1024
SIZES = {"1k": 1000, COMPARED: 100_000, "1m": 1_000_000}

GOALS = {
    "post_vs_mlflow": 8,
    "post_vs_floor": 0.5,
    "get_vs_mlflow": 8,
    "get_vs_floor": 0.7,
    "list_100k_vs_mlflow": 20,
    "list_1m_vs_1k_p99": 1.5,
    "download_vs_nginx": 0.85,
    "range_vs_nginx": 0.85,
}
AT_MOST = ("list_1m_vs_1k_p99",)
"""Of the others, more is better."""

FULL = Pace(connections=(1, 8, 32), downloads=(1, 8), rounds=5, seconds=1.5, warm_up=0.4)
QUICK = Pace(connections=(8,), downloads=(1,), rounds=3, seconds=0.6, warm_up=0.2)

PLAN = """\
POST /runs, GET /runs/{{id}}, the list's first and deep pages with 1 k, 100 k and 1 M runs, and
downloads of 300 MiB: the service beside MLflow {mlflow}, a bare route (the floor) and nginx, on
{db}. MLflow is installed into build/ the first time (600 MB). About {minutes} minutes, and
up to 6 GB in {folder} until it ends.
"""

NO_NGINX = "nginx is not installed (on Debian: apt-get install nginx-light); its keys are null"


def main() -> int:
    for name in list(os.environ):  # the defaults are what is measured
        if name.startswith("FINLORA_"):
            del os.environ[name]
    options = _options()
    pace, minutes = (QUICK, 2) if options.quick else (FULL, 10)
    folder = Path(tempfile.mkdtemp(prefix="finlora-api-")).resolve()
    print(PLAN.format(mlflow=contestants.MLFLOW, minutes=minutes, db=options.db, folder=folder))
    course = Course(pace)
    try:
        contestants.install_mlflow(course.say)
        with ExitStack() as stack:
            field, kept = _gather(options.db, folder, stack, course)
            for race in races(field):
                course.run(race, pace.downloads if race.is_download else pace.connections)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _report(course, {"db": options.db, **kept, "nginx": field.nginx is not None})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    return parser.parse_args()


def _gather(
    db: str, folder: Path, stack: ExitStack, course: Course
) -> tuple[Field, Mapping[str, str]]:
    """Everybody, started, until `stack` is closed; and how their databases keep a commit."""
    databases = Databases(db, folder)
    stack.callback(databases.stop)
    built = {}
    for size, runs in SIZES.items():
        course.say(f"inserting {runs:,} runs")
        url = databases.create(f"runs_{size}").render_as_string(hide_password=False)
        settings = load_settings(
            home=folder / size, port=free_port(), database_url=url, rate_limit="off"
        )
        built[size] = homes.prepare(settings, runs)
        stack.enter_context(contestants.service(settings))
    store = built[COMPARED].settings
    adapter = homes.publish_adapter(store, folder, ADAPTER_BYTES)
    rows = SIZES[COMPARED]
    course.say(
        f"starting the others; inserting {rows:,} rows into the databases of MLflow and the floor"
    )
    floor = databases.create("floor")
    field = Field(
        homes=built,
        floor=stack.enter_context(contestants.floor(folder, floor, rows)),
        mlflow=stack.enter_context(contestants.mlflow(folder, databases.create("mlflow"), rows)),
        nginx=stack.enter_context(contestants.nginx(folder, store.adapters / ".store" / adapter)),
        adapter=adapter,
        adapter_bytes=ADAPTER_BYTES,
    )
    if field.nginx is None:
        course.say(NO_NGINX)
    return field, durability(floor)


def ratios(course: Course) -> Mapping[str, float | None]:
    """What the goals are set for: the worst over the numbers of connections."""

    def least(races: Sequence[str], one: str, other: str, of: Measure) -> float | None:
        return min(
            (r for race in races for r in course.ratios(race, one, other, of)), default=None
        )

    growth = [r for race in (FIRST, DEEP) for r in course.ratios(race, "1m", "1k", p99_ms)]
    return {
        "post_vs_mlflow": least([POST], "service", "mlflow", per_second),
        "post_vs_floor": least([POST], "service", "floor", per_second),
        "get_vs_mlflow": least([GET], "service", "mlflow", per_second),
        "get_vs_floor": least([GET], "service", "floor", per_second),
        "list_100k_vs_mlflow": least([FIRST], COMPARED, "mlflow", per_second),
        "list_1m_vs_1k_p99": max(growth),
        "download_vs_nginx": least(DOWNLOADS, "service", "nginx", megabytes_per_second),
        "range_vs_nginx": least(RANGES, "service", "nginx", megabytes_per_second),
    }


def _report(course: Course, circumstances: Mapping[str, Any]) -> int:
    found = ratios(course)
    missed = [
        key for key, ratio in found.items() if ratio is not None and not _reached(key, ratio)
    ]
    for key, ratio in found.items():
        shown = "none" if ratio is None else f"{ratio:.2f}"  # nobody to compare with answered
        sign = "at most" if key in AT_MOST else "at least"
        print(f"  {key:20} {shown:>7}   goal: {sign} {GOALS[key]:g}")
    rounded = {key: ratio and round(ratio, 3) for key, ratio in found.items()}
    print(json.dumps({**rounded, "missed": missed, **circumstances, "figures": course.figures()}))
    return 1 if missed else 0


def _reached(key: str, ratio: float) -> bool:
    return ratio <= GOALS[key] if key in AT_MOST else ratio >= GOALS[key]


if __name__ == "__main__":
    sys.exit(main())
