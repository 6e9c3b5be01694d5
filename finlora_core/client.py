"""The Python client: post a run, follow it, download its adapter and verify it."""

import hashlib
import shutil
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from finlora_core.errors import FinLoRAError

TERMINAL = {"succeeded", "failed", "cancelled"}


class ApiError(FinLoRAError):
    """The server's answer was an error; `code` and the message are the server's."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail")))
        self.code = str(problem.get("code"))  # type: ignore[misc]  # of this answer, not the class


class ChecksumMismatch(FinLoRAError):
    code = "checksum_mismatch"


class Client:
    """One connection pool to one server. A context manager."""

    def __init__(self, base_url: str) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create_run(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return self._json("POST", "/runs", json=config)

    def get_run(self, run_id: str) -> dict[str, Any]:
        return self._json("GET", f"/runs/{run_id}")

    def cancel_run(self, run_id: str) -> dict[str, Any]:
        return self._json("POST", f"/runs/{run_id}/cancel")

    def pause_run(self, run_id: str) -> dict[str, Any]:
        return self._json("POST", f"/runs/{run_id}/pause")

    def resume_run(self, run_id: str) -> dict[str, Any]:
        return self._json("POST", f"/runs/{run_id}/resume")

    def retry_run(self, run_id: str) -> dict[str, Any]:
        return self._json("POST", f"/runs/{run_id}/retry")

    def list_attempts(self, run_id: str) -> list[dict[str, Any]]:
        attempts: list[dict[str, Any]] = self._json("GET", f"/runs/{run_id}/attempts")["data"]
        return attempts

    def get_adapter(self, adapter_id: str) -> dict[str, Any]:
        return self._json("GET", f"/adapters/{adapter_id}")

    def wait(
        self, run_id: str, report: Callable[[dict[str, Any]], None], every: float = 0.5
    ) -> dict[str, Any]:
        """The run once it has ended; `report` sees it every `every` seconds until then."""
        while True:
            run = self.get_run(run_id)
            report(run)
            if run["status"] in TERMINAL:
                return run
            time.sleep(every)

    def download(self, adapter_id: str, folder: Path) -> Path:
        """The adapter's files below `folder`, each compared with its SHA-256.

        Returns the adapter's own folder. Raises `ChecksumMismatch` naming the file.
        """
        adapter = self.get_adapter(adapter_id)
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / f"{adapter_id}.tar"
        with self._http.stream("GET", f"/adapters/{adapter_id}/download") as answer:
            _raise_for(answer)
            with archive.open("wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
        target = folder / f"{adapter['name']}-v{adapter['version']}"
        _unpack(archive, target, adapter["files"])
        _verify(target, adapter["files"])
        return target

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self._http.request(method, path, **request)
        _raise_for(answer)
        content: dict[str, Any] = answer.json()
        return content


def _raise_for(answer: httpx.Response) -> None:
    if answer.is_error:
        answer.read()
        try:
            problem = answer.json()
        except ValueError:  # a proxy between us and the service
            problem = {"code": "unavailable", "detail": f"{answer.url} says {answer.status_code}"}
        raise ApiError(problem)


def _unpack(archive: Path, target: Path, files: list[dict[str, Any]]) -> None:
    """Only the files that the adapter lists, and only into `target` itself."""
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for file in files:
            name = Path(file["path"]).name
            content = tar.extractfile(f"{target.name}/{name}")
            assert content is not None  # noqa: S101  # the service archives plain files only
            with content, (target / name).open("wb") as copy:
                shutil.copyfileobj(content, copy)
    archive.unlink()


def _verify(folder: Path, files: list[dict[str, Any]]) -> None:
    for file in files:
        with (folder / file["path"]).open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != file["sha256"]:
            raise ChecksumMismatch(f"{file['path']} has SHA-256 {found}, not {file['sha256']}")
