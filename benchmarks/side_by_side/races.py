"""What is measured: the same question to each contestant, in its own words."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.side_by_side.course import Race
from benchmarks.side_by_side.homes import CONFIG, PAGE, Home
from benchmarks.side_by_side.load import Target
from finlora_core.access.first_key import read_key
from finlora_core.adapters.manifest import WEIGHTS

PIECE = 16 * 1024 * 1024
COMPARED = "100k"
"""The service with as many runs as MLflow has, and the floor rows."""

GET, POST, FIRST, DEEP = "GET /runs/{id}", "POST /runs", "first page", "deep page"
DOWNLOADS = ("whole file", "archive")
RANGES = ("second half", "piece of 16 MiB")


@dataclass(frozen=True)
class Field:
    """Everybody who is measured: their ports."""

    homes: Mapping[str, Home]
    """The service, by number of runs: `1k`, `100k`, `1m`."""
    mlflow: int
    floor: int
    nginx: int | None
    adapter: str
    adapter_bytes: int


def races(field: Field) -> Iterator[Race]:
    """POST comes last: it adds rows."""
    yield _get(field)
    yield _first_pages(field)
    yield _deep_pages(field)
    yield from _downloads(field)
    yield _post(field)


def _get(field: Field) -> Race:
    found = _ask(field.mlflow, "/api/2.0/mlflow/runs/search", _search(limit=1000))["runs"]
    theirs = [run["info"]["run_id"] for run in found]
    rows = [_ask(field.floor, "/rows", CONFIG)["id"] for _ in range(200)]
    paths = {
        "service": [f"/runs/{id}" for id in field.homes[COMPARED].ids],
        "floor": [f"/rows/{id}" for id in rows],
        "mlflow": [f"/api/2.0/mlflow/runs/get?run_id={id}" for id in theirs],
    }
    return Race(GET, {name: _get_target(field, name, paths[name]) for name in paths})


def _get_target(field: Field, name: str, paths: Sequence[str]) -> Target:
    if name == "mlflow":
        return _mlflow(field, paths)
    return Target(port=field.floor, paths=paths) if name == "floor" else _service(field, paths)


def _post(field: Field) -> Race:
    theirs = {"experiment_id": "0", "run_name": "sentiment"}
    create = "/api/2.0/mlflow/runs/create"
    return Race(
        POST,
        {
            "service": _service(field, ["/runs"], bodies=[json.dumps(CONFIG)]),
            "floor": Target(port=field.floor, paths=["/rows"], bodies=[json.dumps(CONFIG)]),
            "mlflow": _mlflow(field, [create], bodies=[json.dumps(theirs)]),
        },
    )


def _first_pages(field: Field) -> Race:
    ours = {size: _service(field, [f"/runs?limit={PAGE}"], size) for size in field.homes}
    return Race(FIRST, {**ours, "mlflow": _searches(field, [_search()])})


def _deep_pages(field: Field) -> Race:
    ours = {
        size: _service(field, [f"/runs?limit={PAGE}&cursor={at}" for at in home.cursors], size)
        for size, home in field.homes.items()
    }
    depths = range(0, field.homes[COMPARED].runs, field.homes[COMPARED].runs // 50)
    return Race(DEEP, {**ours, "mlflow": _searches(field, [_search(at) for at in depths])})


def _downloads(field: Field) -> Iterator[Race]:
    base = f"/adapters/{field.adapter}"
    file, archive = f"{base}/files/{WEIGHTS}", f"{base}/download"
    middle = field.adapter_bytes // 2
    for name, path, wanted in (
        (DOWNLOADS[0], file, ""),
        (DOWNLOADS[1], archive, ""),
        (RANGES[0], file, f"bytes={middle}-"),
        (RANGES[1], file, f"bytes={middle}-{middle + PIECE - 1}"),
    ):
        targets = {"service": _service(field, [path], span=wanted)}
        if field.nginx is not None:
            same = [f"/{WEIGHTS}"]
            targets["nginx"] = Target(port=field.nginx, paths=same, headers=_range(wanted))
        yield Race(name, targets, is_download=True)


def _service(
    field: Field, paths: Sequence[str], size: str = COMPARED, *, span: str = "", **more: Any
) -> Target:
    settings = field.homes[size].settings
    key = {"Authorization": f"Bearer {read_key(settings)}"}
    return Target(port=settings.port, paths=paths, headers={**key, **_range(span)}, **more)


def _range(wanted: str) -> Mapping[str, str]:
    return {"Range": wanted} if wanted else {}


def _searches(field: Field, bodies: Sequence[Mapping[str, Any]]) -> Target:
    texts = [json.dumps(body) for body in bodies]
    return _mlflow(field, ["/api/2.0/mlflow/runs/search"], bodies=texts)


def _mlflow(field: Field, paths: Sequence[str], bodies: Sequence[str] = ()) -> Target:
    """With 32 connections it finds SQLite locked, and answers some searches with 500."""
    return Target(port=field.mlflow, paths=paths, bodies=bodies, may_fail=True)


def _search(offset: int = 0, limit: int = PAGE) -> Mapping[str, Any]:
    """MLflow's list: newest first unless told otherwise, its cursor an offset."""
    body: dict[str, Any] = {"experiment_ids": ["0"], "max_results": limit}
    token = base64.b64encode(json.dumps({"offset": offset}).encode()).decode()
    return {**body, "page_token": token} if offset else body


def _ask(port: int, path: str, body: Mapping[str, Any]) -> Any:
    answer = httpx.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()
