"""Checkpoints that a later attempt may go on from: judged whole, marked, moved out of reach.

    attempt-1/output/checkpoint-120/       the trainer writes it, file by file
        │ keep: judge, write checkpoint.json, fsync, rename
        ▼
    checkpoints/attempt-1/checkpoint-120/  whole: the rename is what makes it a checkpoint
        │ set_aside: it did not load, or its bytes are no longer those of its marker
        ▼
    set_aside/attempt-1-checkpoint-120/

Reads bytes only: runs no pickle, and follows no link that a trainer may have left.
"""

import errno
import json
import os
import re
import shutil
import stat
import struct
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from finlora_core.training.files import RunFiles

CHECKPOINT_SECONDS = "FINLORA_CHECKPOINT_SECONDS"
"""The variable that tells the plugin inside the training process how often to save."""

MARKER = "checkpoint.json"
KEPT = 2
"""One to go on from, and one before it, should that one not load."""

MAX_JSON_BYTES = 100_000_000
"""The safetensors format's own limit for its header; no other JSON here comes near it."""

_WEIGHTS, _STATE = "adapter_model.safetensors", "trainer_state.json"
_ARCHIVES = (
    ("optimizer.pt", "optimizer.bin", "global_step*/*_optim_states.pt"),
    ("scheduler.pt",),
    ("rng_state*.pth",),
)
"""One or more of each: of one process or several, with FSDP, with DeepSpeed."""

_FOLDERS = re.compile(r"attempt-(\d+)/checkpoint-(\d+)", re.ASCII)
_NOT_AN_ARCHIVE = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error)
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EIO}
"""What a damaged file says when it is read. Any other error may pass, and condemns nothing."""
_NOT_THE_JSON = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Lineage:
    """What a checkpoint comes from; it serves only a training of the same."""

    config_sha256: str
    dataset_sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A folder that was whole when it was kept."""

    path: Path
    step: int
    attempt: int


def keep(run: RunFiles, attempt: int, lineage: Lineage, step: int) -> Checkpoint | None:
    """The checkpoint out of the trainer's reach and on disk.

    None when it is not whole, or not there. Raises OSError when the disk refuses: the
    checkpoint is then still where it was, and may be kept later.
    """
    source = run.attempt(attempt).output / f"checkpoint-{step}"
    kept = Checkpoint(_folder(run, attempt) / source.name, step, attempt)
    if not kept.path.exists():
        try:
            if not _is_whole(source, step):
                return None
            _mark(source, kept, lineage)
            _move(run, source, kept.path)
        except FileNotFoundError:
            return None  # taken away meanwhile, by its trainer
    return kept


def newest(run: RunFiles, lineage: Lineage) -> Checkpoint | None:
    """The furthest one that is still what its marker says; damaged ones are set aside."""
    for checkpoint in _kept(run):
        marker = _read_marker(checkpoint)
        if marker is not None and marker["lineage"] != asdict(lineage):
            continue
        if marker is not None and _is_unchanged(checkpoint.path, marker):
            return checkpoint
        set_aside(run, checkpoint)
    return None


def prune(run: RunFiles, lineage: Lineage, kept: Checkpoint) -> None:
    """Remove all but the newest of this lineage, and what a crash has left of pruning before.

    The one just kept stays, whatever else is there. Only for who has the run's lease: another
    attempt may be going on from an older one just now.
    """
    markers = {checkpoint: _read_marker(checkpoint) for checkpoint in _kept(run)}
    half_removed = [checkpoint for checkpoint, marker in markers.items() if marker is None]
    ours = [
        one for one, marker in markers.items() if marker and marker["lineage"] == asdict(lineage)
    ]
    for old in [*ours[KEPT:], *half_removed]:
        if old != kept:
            with suppress(OSError):  # what stays costs space only
                (old.path / MARKER).unlink(missing_ok=True)  # half removed, it is none any more
                shutil.rmtree(old.path)


def set_aside(run: RunFiles, checkpoint: Checkpoint) -> None:
    """Never offered again, but kept for whoever wants to know why. May be repeated."""
    name = f"attempt-{checkpoint.attempt}-{checkpoint.path.name}"
    run.set_aside.mkdir(parents=True, exist_ok=True)
    taken = len(list(run.set_aside.glob(f"{name}*")))
    try:
        os.rename(checkpoint.path, run.set_aside / (f"{name}.{taken}" if taken else name))
    except FileNotFoundError:
        return
    _sync(checkpoint.path.parent)
    _sync(run.set_aside)


def _folder(run: RunFiles, attempt: int) -> Path:
    return run.checkpoints / f"attempt-{attempt}"


def _kept(run: RunFiles) -> list[Checkpoint]:
    """Every folder that `keep` has made, the furthest step first, then the latest attempt."""
    found = []
    for path in run.checkpoints.glob("*/*"):
        if match := _FOLDERS.fullmatch(f"{path.parent.name}/{path.name}"):
            found.append(Checkpoint(path, step=int(match[2]), attempt=int(match[1])))
    return sorted(found, key=lambda found: (found.step, found.attempt), reverse=True)


def _is_whole(folder: Path, step: int) -> bool:
    """Everything that resuming reads is there, to its last byte as far as the formats tell."""
    files = _plain_files(folder)
    if files is None or not {_WEIGHTS, "adapter_config.json", _STATE} <= files.keys():
        return False
    archives = [[path for name in names for path in folder.glob(name)] for names in _ARCHIVES]
    return (
        all(archives)
        and all(_is_archive(path) for paths in archives for path in paths)
        and _is_safetensors(folder / _WEIGHTS)
        and _read_object(folder / "adapter_config.json") is not None
        and (_read_object(folder / _STATE) or {}).get("global_step") == step
    )


def _plain_files(folder: Path) -> dict[str, int] | None:
    """The size of each file; None when there is anything but plain files in plain folders."""
    if not all(stat.S_ISDIR(path.lstat().st_mode) for path in (folder.parent, folder)):
        return None
    found = {str(entry.relative_to(folder)): entry.lstat() for entry in folder.rglob("*")}
    found.pop(MARKER, None)
    files = {name: status for name, status in found.items() if not stat.S_ISDIR(status.st_mode)}
    if not all(stat.S_ISREG(status.st_mode) for status in files.values()):
        return None
    return {name: status.st_size for name, status in files.items()}


def _is_archive(path: Path) -> bool:
    """What torch.save writes is a zip, whose directory comes last."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.infolist())
    except _NOT_AN_ARCHIVE:
        return False


def _is_safetensors(path: Path) -> bool:
    """The file ends where the header says that its last tensor does."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, MAX_JSON_BYTES)))
        header.pop("__metadata__", None)
        end = max(tensor["data_offsets"][1] for tensor in header.values())
        return bool(path.stat().st_size == 8 + length + end)
    except _NOT_THE_JSON:
        return False


def _read_object(path: Path) -> Mapping[str, Any] | None:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_JSON_BYTES))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _mark(folder: Path, kept: Checkpoint, lineage: Lineage) -> None:
    """Everything in the folder is on disk before the marker says what it is."""
    files = {name: _describe(folder / name) for name in sorted(_plain_files(folder) or ())}
    marker = {"step": kept.step, "attempt": kept.attempt}
    content = json.dumps({**marker, "lineage": asdict(lineage), "files": files}, indent=2)
    (folder / MARKER).unlink(missing_ok=True)  # of a try that ended here
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(folder / MARKER, new, 0o644), "w") as file:
        file.write(content + "\n")
        file.flush()
        os.fsync(file.fileno())
    for parent in {(folder / name).parent for name in files} | {folder}:
        _sync(parent)


def _describe(path: Path, *, sync: bool = True) -> dict[str, Any]:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        if sync:
            os.fsync(file.fileno())
        digest = file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": digest}


def _move(run: RunFiles, source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for parent in (run.root, run.checkpoints):
        _sync(parent)
    os.rename(source, target)
    _sync(target.parent)


def _sync(folder: Path) -> None:
    """A name is on disk when the folder that holds it is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_marker(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    """None when there is none, or one of another checkpoint."""
    try:
        marker = _read_object(checkpoint.path / MARKER) or {}
    except OSError as error:
        _raise_unless_damage(error)
        return None
    named = (marker.get("step"), marker.get("attempt"))
    complete = marker.keys() >= {"lineage", "files"}
    return marker if complete and named == (checkpoint.step, checkpoint.attempt) else None


def _is_unchanged(folder: Path, marker: Mapping[str, Any]) -> bool:
    try:
        names = _plain_files(folder) or {}
        found = {name: _describe(folder / name, sync=False) for name in names}
    except OSError as error:
        _raise_unless_damage(error)
        return False
    return bool(found == marker["files"])


def _raise_unless_damage(error: OSError) -> None:
    if error.errno not in _DAMAGE:
        raise error
