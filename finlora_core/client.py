"""The Python client: post a run or an evaluation, follow it, download an adapter and verify it."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from finlora_core.adapters.manifest import File
from finlora_core.download import InvalidAnswer, Remote, Report, download, ignore
from finlora_core.errors import (
    FinLoRAError,
    InvalidSettings,
    Unauthorized,
    Unavailable,
    UnknownName,
)
from finlora_core.redact import redact
from finlora_core.runs.kind import RunKind

TERMINAL = {"succeeded", "failed", "cancelled"}

PATIENCE = 60.0
"""Seconds a service may be away while a run is followed: it may be starting again."""

UPLOAD_SECONDS = 600.0
"""How long the service may take to check what was uploaded."""

_AWAY = (502, 503, 504)

_PLACES = {
    RunKind.TRAINING: "/runs",
    RunKind.EVALUATION: "/evaluations",
    RunKind.MERGE: "/merges",
}

_ID = re.compile(r"([a-z]+)_[0-9a-f]{20}")


class ApiError(FinLoRAError):
    """The server's answer was an error; `code` and the message are the server's."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail")))
        self.code = str(problem.get("code"))  # type: ignore[misc]  # of this answer, not the class


class Client:
    """One connection pool to one server. A context manager."""

    def __init__(self, base_url: str, key: str | None = None) -> None:
        """`key` is an API key of the service. Raises `InvalidSettings` for what is no address."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.Client(base_url=base_url, timeout=30, headers=headers)
        except httpx.InvalidURL as error:
            raise InvalidSettings(f"{redact(base_url)!r} is no address: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def url(self) -> str:
        """Without what a password may be in."""
        return str(self._http.base_url.copy_with(userinfo=b"")).rstrip("/")

    def serves(self) -> bool:
        """Whether this service, and no other, answers there."""
        try:
            return self._json("GET", "/healthz", timeout=5) == {"status": "ok"}
        except FinLoRAError:
            return False

    def create_run(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return self._json("POST", "/runs", json=config)

    def list_runs(self, **filters: Any) -> list[dict[str, Any]]:
        """One page, the newest first."""
        return self._page("/runs", filters)

    def create_evaluation(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return self._json("POST", "/evaluations", json=config)

    def list_evaluations(self, **filters: Any) -> list[dict[str, Any]]:
        """One page, the newest first."""
        return self._page("/evaluations", filters)

    def create_comparison(self, a: str, b: str, task: str | None = None) -> dict[str, Any]:
        """`a` and `b`: ids of results or adapters, or `base`."""
        asked = {"a": a, "b": b, **({"task": task} if task else {})}
        return self._json("POST", "/comparisons", json=asked)

    def merge_adapter(self, adapter_id: str, terms: Mapping[str, Any]) -> dict[str, Any]:
        return self._json("POST", f"/adapters/{adapter_id}/merge", json=terms)

    def list_tasks(self) -> list[dict[str, Any]]:
        """What can be evaluated, and whether its rows are at hand."""
        return self._page("/tasks", {})

    def get_run(self, run_id: str) -> dict[str, Any]:
        """A run of any kind, here and where it is followed."""
        return self._json("GET", _path_of(run_id))

    def cancel_run(self, run_id: str) -> dict[str, Any]:
        return self._json("POST", f"{_path_of(run_id)}/cancel")

    def pause_run(self, run_id: str) -> dict[str, Any]:
        return self._json("POST", f"/runs/{run_id}/pause")

    def resume_run(self, run_id: str) -> dict[str, Any]:
        return self._json("POST", f"/runs/{run_id}/resume")

    def retry_run(self, run_id: str) -> dict[str, Any]:
        return self._json("POST", f"/runs/{run_id}/retry")

    def list_attempts(self, run_id: str) -> list[dict[str, Any]]:
        attempts: list[dict[str, Any]] = self._json("GET", f"/runs/{run_id}/attempts")["data"]
        return attempts

    def read_log(self, run_id: str, offset: int = 0) -> tuple[str, int]:
        """The log from `offset` on, and where to go on from: the same place at its end."""
        answer = self._request("GET", f"{_path_of(run_id)}/logs", params={"offset": offset})
        return answer.text, int(answer.headers.get("Next-Offset", offset))

    def read_metrics(self, run_id: str) -> Iterator[dict[str, Any]]:
        """Every point that the trainer has logged."""
        path, after = f"/runs/{run_id}/metrics", 0
        while (page := self._json("GET", path, params={"after": after}))["data"]:
            yield from page["data"]
            after = page["next_after"]

    def upload_dataset(self, file: Path, prompt_format: str | None = None) -> dict[str, Any]:
        """Streamed; the answer comes when the service has read every line."""
        fields = {"prompt_format": prompt_format} if prompt_format else {}
        with file.open("rb") as content:
            files = {"file": (file.name, content)}
            return self._json(
                "POST", "/datasets", files=files, data=fields, timeout=UPLOAD_SECONDS
            )

    def list_datasets(self, **filters: Any) -> list[dict[str, Any]]:
        """One page, the newest first."""
        return self._page("/datasets", filters)

    def delete_dataset(self, dataset_id: str) -> None:
        self._request("DELETE", f"/datasets/{dataset_id}")

    def list_adapters(self, **filters: Any) -> list[dict[str, Any]]:
        """One page, the newest first."""
        return self._page("/adapters", filters)

    def get_adapter(self, adapter_id: str) -> dict[str, Any]:
        return self._json("GET", f"/adapters/{adapter_id}")

    def move_adapter(self, adapter_id: str, stage: str, **why: str | None) -> dict[str, Any]:
        given = {key: value for key, value in why.items() if value is not None}
        asked = {"stage": stage, **given}
        return self._json("POST", f"/adapters/{adapter_id}/stage", json=asked)

    def wait(
        self, run_id: str, report: Callable[[dict[str, Any]], None], every: float = 0.5
    ) -> dict[str, Any]:
        """The run once it has ended; `report` sees it every `every` seconds until then.

        Raises `Unavailable` when the service has been away for longer than `PATIENCE`.
        """
        run = self.get_run(run_id)
        deadline = time.monotonic() + PATIENCE
        while True:
            report(run)
            if run["status"] in TERMINAL:
                return run
            time.sleep(every)
            try:
                run = self.get_run(run_id)
                deadline = time.monotonic() + PATIENCE
            except Unavailable:
                if time.monotonic() > deadline:
                    raise

    def download(self, adapter_id: str, folder: Path, report: Report = ignore) -> Path:
        """The adapter's files in a folder of its own below `folder`; see `download.download`."""
        adapter = self.get_adapter(adapter_id)
        name = f"{adapter['name']}-v{adapter['version']}"
        return self._download(f"/adapters/{adapter_id}", name, adapter["files"], folder, report)

    def download_merged(self, adapter_id: str, folder: Path, report: Report = ignore) -> Path:
        """The same of the model that its newest merge has made. Raises `UnknownName`."""
        adapter = self.get_adapter(adapter_id)
        if not adapter["merges"]:
            raise UnknownName(
                f"{adapter_id} has not been merged; `finlora adapters merge {adapter_id}` does it"
            )
        merge = self.get_run(adapter["merges"][0])
        name = f"{adapter['name']}-v{adapter['version']}-merged"
        files = merge["merged"]["files"]
        return self._download(f"/merges/{merge['id']}", name, files, folder, report)

    def _download(self, path: str, name: str, files: Any, folder: Path, report: Report) -> Path:
        listed = [File.model_validate(file) for file in files]
        return download(self._stream, Remote(path, name, listed), folder, report)

    def _page(self, path: str, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
        given = {key: value for key, value in filters.items() if value is not None}
        rows: list[dict[str, Any]] = self._json("GET", path, params=given)["data"]
        return rows

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self._request(method, path, **request)
        try:
            content = answer.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise InvalidAnswer(f"{self.url} answers, but not as this service does")
        return content

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise Unavailable(
                f"no service answers at {self.url} ({error}); start one with `finlora up`, or "
                "name another with --url or FINLORA_URL"
            ) from None
        _raise_for(answer)
        return answer

    @contextmanager
    def _stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        with self._http.stream("GET", path, headers=dict(headers)) as answer:
            _raise_for(answer)
            yield answer


def kind_of(run_id: str) -> RunKind:
    """By its id; anything else is taken for the id of a training."""
    match = _ID.fullmatch(run_id)
    return next((kind for kind in RunKind if match and kind.prefix == match[1]), RunKind.TRAINING)


def _path_of(run_id: str) -> str:
    return f"{_PLACES[kind_of(run_id)]}/{run_id}"


def _raise_for(answer: httpx.Response) -> None:
    if not answer.is_error:
        return
    answer.read()
    problem = _problem(answer)
    if answer.status_code in _AWAY:
        raise Unavailable(str(problem["detail"]))
    if answer.status_code == 401:
        raise Unauthorized(
            "the service wants an API key: set FINLORA_API_KEY to one that `finlora keys create` "
            "has shown, and that has neither ended nor been revoked"
        )
    raise ApiError(problem)


def _problem(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        problem = answer.json()
        if isinstance(problem, dict) and {"code", "detail"} <= problem.keys():
            return problem
    except ValueError:  # a proxy between us and the service, or another service
        pass
    detail = f"{redact(str(answer.url))} says {answer.status_code}, but not as this service does"
    return {"code": InvalidAnswer.code, "detail": detail}
