"""Is a published adapter still what was published? Finds any one flipped bit.

The manifest names each file's size and SHA-256, and carries a SHA-256 of itself: that finds
what decays. Whoever has the adapter's row knows the manifest's SHA-256 too, and so finds
also what somebody has changed together with the manifest.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finlora_core.adapters.manifest import MANIFEST, SELF, VERSION, File, canonical, own_sha256

CHUNK = 1024 * 1024
MAX_MANIFEST_BYTES = 16 * 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)

Report = Callable[[str, int, int], None]
"""Told of a file's name, how many of its bytes have been read, and how many it has."""


class Fault(StrEnum):
    MISSING = "missing"
    EXTRA = "extra"
    NOT_A_FILE = "not_a_file"
    UNREADABLE = "unreadable"
    SIZE = "size"
    SHA256 = "sha256"
    MANIFEST = "manifest"
    """The manifest itself cannot be read, or is not the one that was published."""


@dataclass(frozen=True)
class Problem:
    """One file of an adapter and what is wrong with it."""

    path: str
    fault: Fault
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


@dataclass(frozen=True)
class Step:
    """How far the reading of one file is."""

    path: str
    done: int
    size: int


def ignore(path: str, done: int, size: int) -> None:
    """The report that nobody reads."""


def verify(
    folder: Path, manifest_sha256: str | None = None, report: Report = ignore
) -> Sequence[Problem]:
    """What is wrong with the adapter in `folder`, file by file; nothing when it is sound."""
    problems = []
    for found in verify_in_steps(folder, manifest_sha256):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            report(found.path, found.done, found.size)
    return problems


def verify_in_steps(folder: Path, manifest_sha256: str | None = None) -> Iterator[Problem | Step]:
    """The same, a piece of a file at a time, for those who have other things to do between."""
    try:
        files = _read_manifest(folder / MANIFEST, manifest_sha256)
    except _Unsound as error:
        yield error.problem
        return
    yield from _strangers(folder, {file.path for file in files})
    for file in files:
        yield from _check_file(folder / file.path, file)


class _Unsound(Exception):
    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def _read_manifest(path: Path, sha256: str | None) -> Sequence[File]:
    """The files it lists. Raises `_Unsound`: nothing else can be judged then."""
    raw = _read_plain(path)
    if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
        raise _bad_manifest("is not the manifest that was published")
    try:
        content = json.loads(raw)
        files = [File.model_validate(file) for file in content["files"]]
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
        raise _bad_manifest("cannot be read as a manifest") from None
    # one that has neither key is older; its row's hash is all there is against it
    if content.keys() & {SELF, VERSION} and not _is_as_written(raw, content):
        raise _bad_manifest("has been changed: its content is not what its own SHA-256 says")
    _require_names(files)
    return files


def _read_plain(path: Path) -> bytes:
    try:
        if path.is_symlink() or not path.is_file():
            fault = Fault.NOT_A_FILE if path.is_symlink() or path.exists() else Fault.MISSING
            raise _Unsound(Problem(path.name, fault, _SAYS[fault]))
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise _bad_manifest(f"is larger than {MAX_MANIFEST_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise _Unsound(_unreadable(path.name, error)) from None


def _is_as_written(raw: bytes, content: dict[str, Any]) -> bool:
    try:
        return content.get(SELF) == own_sha256(content) and raw == canonical(content)
    except ValueError:  # NaN, or half of a character
        return False


def _require_names(files: Sequence[File]) -> None:
    """Plain names, each once: nothing outside the folder is ever looked at."""
    names = [file.path for file in files]
    if len(set(names)) < len(names) or not names:
        raise _bad_manifest("lists a file twice, or none")
    for name in names:
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise _bad_manifest(f"lists {name[:60]!r}, which is no name of a file beside it")


def _strangers(folder: Path, known: set[str]) -> Iterator[Problem]:
    for path in sorted(folder.iterdir()):
        if path.name not in known and path.name != MANIFEST:
            yield Problem(path.name, Fault.EXTRA, _SAYS[Fault.EXTRA])


def _check_file(path: Path, file: File) -> Iterator[Problem | Step]:
    if path.is_symlink() or not path.is_file():
        fault = Fault.NOT_A_FILE if path.is_symlink() or path.exists() else Fault.MISSING
        yield Problem(file.path, fault, _SAYS[fault])
        return
    try:
        size = path.stat().st_size
        if size != file.size:
            detail = f"has {size} bytes instead of {file.size}"
            yield Problem(file.path, Fault.SIZE, detail)
            return
        yield from _check_bytes(path, file)
    except OSError as error:
        yield _unreadable(file.path, error)


def _check_bytes(path: Path, file: File) -> Iterator[Problem | Step]:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            yield Step(file.path, done, file.size)
    if digest.hexdigest() != file.sha256:
        detail = f"has SHA-256 {digest.hexdigest()} instead of {file.sha256}"
        yield Problem(file.path, Fault.SHA256, detail)


_SAYS = {
    Fault.MISSING: "is missing",
    Fault.EXTRA: "is not in the manifest",
    Fault.NOT_A_FILE: "is not a plain file",
}


def _bad_manifest(detail: str) -> _Unsound:
    return _Unsound(Problem(MANIFEST, Fault.MANIFEST, detail))


def _unreadable(name: str, error: OSError) -> Problem:
    return Problem(name, Fault.UNREADABLE, f"cannot be read: {error.strerror}")
