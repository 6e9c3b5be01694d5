"""Download published files one by one: go on where it broke off, verify, appear whole.

<folder>/
  .adp_….part/                          while it is being downloaded
    adapter_config.json                 whole, its SHA-256 compared
    adapter_model.safetensors.part      what has come so far
  sentiment-v1/                         renamed into place when every file is whole
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from finlora_core.adapters.manifest import File, sha256_of
from finlora_core.errors import Conflict, FinLoRAError, Unavailable

Report = Callable[[int, int], None]
"""Told how many bytes are here, and how many there are."""

Get = Callable[[str, Mapping[str, str]], Any]
"""GET a path with these headers: a context manager that gives the streamed answer."""


class ChecksumMismatch(FinLoRAError):
    code = "checksum_mismatch"


class InvalidAnswer(FinLoRAError):
    code = "invalid_answer"


def ignore(done: int, size: int) -> None:
    """The report that nobody reads."""


@dataclass(frozen=True)
class Remote:
    """What is to be fetched."""

    path: str
    """Of the API: `/adapters/adp_…`, below which its files are."""
    name: str
    """Of the folder that it is to get."""
    files: Sequence[File]


def download(get: Get, remote: Remote, folder: Path, report: Report = ignore) -> Path:
    """Its own folder below `folder`.

    Raises `ChecksumMismatch` naming the file, `Unavailable` when the connection breaks
    (the same call goes on from there), `Conflict` when something else has the folder's name.
    """
    final = folder / _plain(remote.name)
    if final.exists():
        _require_same(final, remote.files)
        return final
    staging = folder / f".{_plain(remote.path.rpartition('/')[2])}.part"
    staging.mkdir(parents=True, exist_ok=True)
    size, before = sum(file.size for file in remote.files), 0
    for file in remote.files:
        url = f"{remote.path}/files/{file.path}"
        _fetch(get, url, file, staging, _after(before, size, report))
        before += file.size
    staging.rename(final)
    return final


def _after(before: int, size: int, report: Report) -> Callable[[int], None]:
    """The report of one file: `before` bytes are here already, of `size` in all."""
    return lambda done: report(before + done, size)


def _fetch(get: Get, url: str, file: File, folder: Path, report: Callable[[int], None]) -> None:
    whole = folder / _plain(file.path)
    part = whole.with_name(f"{whole.name}.part")
    if not _is_same(whole, file):
        part.touch()
        _fill(get, url, file, part, report)
        if not _is_same(part, file):
            part.unlink()
            raise ChecksumMismatch(
                f"{file.path}: what came is not what the server listed (SHA-256 {file.sha256}); "
                "it was removed, try again"
            )
        part.rename(whole)
    report(file.size)


def _fill(get: Get, url: str, file: File, part: Path, report: Callable[[int], None]) -> None:
    """Goes on after a broken connection for as long as each one brings something."""
    have = part.stat().st_size
    while have < file.size:
        reason = "the connection ended early"
        try:
            _append(get, url, file, part, report)
        except httpx.TransportError as error:
            reason = str(error)
        have, had = part.stat().st_size, have
        if have <= had:
            raise Unavailable(
                f"{file.path}: {reason}; {have} of {file.size} bytes are here, the same command "
                "goes on from there"
            )


def _append(get: Get, url: str, file: File, part: Path, report: Callable[[int], None]) -> None:
    have = part.stat().st_size
    # If-Range: should the file be another one by now, all of it comes
    wanted = {"Range": f"bytes={have}-", "If-Range": f'"{file.sha256}"'} if have else {}
    with (
        get(url, {"Accept-Encoding": "identity", **wanted}) as answer,
        part.open("ab" if answer.status_code == 206 else "wb") as content,
    ):
        for chunk in answer.iter_bytes():
            content.write(chunk)
            report(content.tell())
        content.flush()
        os.fsync(content.fileno())


def _is_same(path: Path, file: File) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256_of(path) == file.sha256


def _require_same(folder: Path, files: Sequence[File]) -> None:
    for file in files:
        if not _is_same(folder / _plain(file.path), file):
            raise Conflict(
                f"{folder} is there already, and its {file.path} is another one; remove "
                "it, or choose another folder"
            )


def _plain(name: str) -> str:
    """A name that stays inside its folder, whatever the server says."""
    if name in ("", ".", "..") or name != PurePosixPath(name).name:
        raise InvalidAnswer(f"the server names a file {name!r}")
    return name
