"""A checkpoint is whole or it is none, whatever its trainer, the disk or a crash has done."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from finlora_core.training import checkpoints
from finlora_core.training.checkpoints import (
    KEPT,
    MARKER,
    Checkpoint,
    Lineage,
    keep,
    newest,
    prune,
    set_aside,
)
from finlora_core.training.files import RunFiles

LINEAGE = Lineage(config_sha256="c" * 64, dataset_sha256="d" * 64)
OTHER = replace(LINEAGE, dataset_sha256="e" * 64)

WEIGHTS, CONFIG, STATE = "adapter_model.safetensors", "adapter_config.json", "trainer_state.json"
ARCHIVES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
NEEDED = (WEIGHTS, CONFIG, STATE, *ARCHIVES)

Damage = Callable[[Path], object]


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    return RunFiles(tmp_path / "runs" / "run_1")


def saved(run: RunFiles, step: int, attempt: int = 1) -> Path:
    """What a trainer leaves behind, in the small."""
    folder = run.attempt(attempt).output / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"lora_A": np.full((2, 3), step, np.float32)}, folder / WEIGHTS, {"format": "pt"})
    for name in ARCHIVES:
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("archive/data.pkl", b"a pickle" * 99)
    (folder / CONFIG).write_text('{"r": 8}')
    (folder / STATE).write_text(json.dumps({"global_step": step, "log_history": []}))
    (folder / "training_args.bin").write_bytes(b"another pickle")
    return folder


OF_SEVERAL_PROCESSES = {
    "ddp": ("optimizer.pt", "rng_state_0.pth", "rng_state_1.pth"),
    "fsdp": ("optimizer.bin", "rng_state_0.pth", "rng_state_1.pth"),
    "deepspeed": (
        "global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "global_step5/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
        "rng_state_0.pth",
        "rng_state_1.pth",
    ),
}


def saved_by(parallelism: str, run: RunFiles, step: int) -> Path:
    folder = saved(run, step)
    archive = (folder / "optimizer.pt").read_bytes()
    for name in ("optimizer.pt", "rng_state.pth"):
        (folder / name).unlink()
    for name in OF_SEVERAL_PROCESSES[parallelism]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(archive)
    return folder


@pytest.mark.parametrize("parallelism", OF_SEVERAL_PROCESSES)
def test_a_checkpoint_of_several_processes_is_kept_whole(run: RunFiles, parallelism: str) -> None:
    saved_by(parallelism, run, 5)
    assert keep(run, 1, LINEAGE, 5)
    found = newest(run, LINEAGE)
    assert found is not None
    assert all((found.path / name).is_file() for name in OF_SEVERAL_PROCESSES[parallelism])


@pytest.mark.parametrize("parallelism", OF_SEVERAL_PROCESSES)
def test_no_process_may_have_left_half_of_its_part(run: RunFiles, parallelism: str) -> None:
    folder = saved_by(parallelism, run, 5)
    cut(folder / OF_SEVERAL_PROCESSES[parallelism][0])
    assert keep(run, 1, LINEAGE, 5) is None


def test_damage_in_a_folder_of_a_checkpoint_is_found(run: RunFiles) -> None:
    saved_by("deepspeed", run, 5)
    checkpoint = keep(run, 1, LINEAGE, 5)
    assert checkpoint is not None
    path = checkpoint.path / OF_SEVERAL_PROCESSES["deepspeed"][0]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert newest(run, LINEAGE) is None


def keep_and_prune(run: RunFiles, attempt: int, lineage: Lineage, step: int) -> Checkpoint | None:
    """What a supervisor that has the lease does."""
    checkpoint = keep(run, attempt, lineage, step)
    if checkpoint is not None:
        prune(run, lineage, checkpoint)
    return checkpoint


def kept(run: RunFiles, step: int, attempt: int = 1) -> Checkpoint:
    saved(run, step, attempt)
    checkpoint = keep_and_prune(run, attempt, LINEAGE, step)
    assert checkpoint is not None
    return checkpoint


def steps(run: RunFiles) -> set[int]:
    return {int(path.name.split("-")[1]) for path in run.checkpoints.glob("*/*")}


def cut(path: Path) -> None:
    """As a full disk or a crash leaves a file: its first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def flip(path: Path) -> None:
    """One bit in the middle; the size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_whole_checkpoint_is_moved_out_of_the_trainers_reach_and_found(run: RunFiles) -> None:
    folder = saved(run, 120)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    checkpoint = keep(run, 1, LINEAGE, 120)
    place = run.checkpoints / "attempt-1" / "checkpoint-120"
    assert checkpoint == Checkpoint(place, step=120, attempt=1) == newest(run, LINEAGE)
    assert not folder.exists()
    after = {file.name: file.read_bytes() for file in place.iterdir() if file.name != MARKER}
    assert after == before


def test_its_marker_says_what_it_is_and_where_it_comes_from(run: RunFiles) -> None:
    marker = json.loads((kept(run, 120).path / MARKER).read_text())
    assert (marker["step"], marker["attempt"]) == (120, 1)
    assert marker["lineage"] == {"config_sha256": "c" * 64, "dataset_sha256": "d" * 64}
    assert marker["files"].keys() == {*NEEDED, "training_args.bin"}


def test_without_any_checkpoint_there_is_none(run: RunFiles) -> None:
    assert newest(run, LINEAGE) is None
    assert keep(run, 1, LINEAGE, 120) is None


def test_keeping_it_once_more_changes_nothing(run: RunFiles) -> None:
    first = kept(run, 120)
    assert keep(run, 1, LINEAGE, 120) == first == newest(run, LINEAGE)


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("damage", [Path.unlink, cut, lambda path: path.write_bytes(b"")])
def test_a_checkpoint_still_being_written_is_left_where_it_is(
    run: RunFiles, name: str, damage: Damage
) -> None:
    folder = saved(run, 120)
    damage(folder / name)
    assert keep(run, 1, LINEAGE, 120) is None
    assert folder.is_dir()
    assert newest(run, LINEAGE) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CONFIG, b"[]"),
        (CONFIG, b"\xff\xfe"),
        (CONFIG, b"[" * 100_000),
        (STATE, b'{"global_step": 119}'),
        (STATE, b'{"global_step": "120"}'),
        (STATE, b"{}"),
        (WEIGHTS, b"\xff" * 64),  # a header of 2**64 bytes
        (WEIGHTS, (2).to_bytes(8, "little") + b"{}"),
        (WEIGHTS, (2).to_bytes(8, "little") + b"[]"),
        (WEIGHTS, (9).to_bytes(8, "little") + b'{"a": {}}'),
        ("optimizer.pt", b"PK\x05\x06" + b"\xff" * 18),  # a zip that names no readable directory
        ("optimizer.pt", b"PK\x05\x06" + b"\0" * 18),  # an empty one
    ],
)
def test_a_file_that_says_something_else_is_not_whole(
    run: RunFiles, name: str, content: bytes
) -> None:
    (saved(run, 120) / name).write_bytes(content)
    assert keep(run, 1, LINEAGE, 120) is None


def test_weights_longer_than_their_header_says_are_not_whole(run: RunFiles) -> None:
    grow(saved(run, 120) / WEIGHTS)
    assert keep(run, 1, LINEAGE, 120) is None


def test_several_ranks_have_a_random_state_each(run: RunFiles) -> None:
    folder = saved(run, 120)
    shutil.copy(folder / "rng_state.pth", folder / "rng_state_1.pth")
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    cut(folder / "rng_state_1.pth")
    assert keep(run, 1, LINEAGE, 120) is None
    shutil.copy(folder / "rng_state_0.pth", folder / "rng_state_1.pth")
    assert keep(run, 1, LINEAGE, 120) is not None


def link_a_file(folder: Path, elsewhere: Path) -> None:
    (folder / CONFIG).rename(elsewhere)
    (folder / CONFIG).symlink_to(elsewhere)


def link_an_extra_file(folder: Path, elsewhere: Path) -> None:
    (folder / "notes").symlink_to(elsewhere)


def link_the_folder(folder: Path, elsewhere: Path) -> None:
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def link_the_folder_above(folder: Path, elsewhere: Path) -> None:
    folder.parent.rename(elsewhere)
    folder.parent.symlink_to(elsewhere)


def put_a_folder_with_a_link_inside(folder: Path, elsewhere: Path) -> None:
    elsewhere.write_text("mine")
    (folder / "global_step120").mkdir()
    (folder / "global_step120" / "states.pt").symlink_to(elsewhere)


def put_a_pipe_inside(folder: Path, elsewhere: Path) -> None:
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize(
    "trick",
    [
        link_a_file,
        link_an_extra_file,
        link_the_folder,
        link_the_folder_above,
        put_a_folder_with_a_link_inside,
        put_a_pipe_inside,
    ],
)
def test_anything_but_plain_files_is_refused(
    run: RunFiles, tmp_path: Path, trick: Callable[[Path, Path], None]
) -> None:
    trick(saved(run, 120), tmp_path / "elsewhere")
    assert keep(run, 1, LINEAGE, 120) is None
    assert newest(run, LINEAGE) is None


def test_a_marker_that_the_trainer_has_left_is_replaced_and_not_written_through(
    run: RunFiles, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (saved(run, 120) / MARKER).symlink_to(elsewhere)
    checkpoint = keep(run, 1, LINEAGE, 120)
    assert checkpoint is not None
    assert checkpoint == newest(run, LINEAGE)
    assert elsewhere.read_text() == "mine"
    assert not (checkpoint.path / MARKER).is_symlink()


def test_the_newest_is_that_of_the_furthest_step_then_of_the_latest_attempt(
    run: RunFiles,
) -> None:
    found = []
    for step, attempt in [(9, 1), (100, 1), (90, 2), (100, 2)]:
        kept(run, step, attempt)
        found.append(newest(run, LINEAGE))
    assert [(c.step, c.attempt) for c in found if c] == [(9, 1), (100, 1), (100, 1), (100, 2)]


@pytest.mark.parametrize("name", [*NEEDED, "training_args.bin", MARKER])
@pytest.mark.parametrize("damage", [flip, cut, grow, Path.unlink])
def test_a_damaged_one_is_set_aside_and_the_one_before_is_given(
    run: RunFiles, name: str, damage: Damage
) -> None:
    before, damaged = kept(run, 60), kept(run, 120)
    damage(damaged.path / name)
    assert newest(run, LINEAGE) == before
    assert not damaged.path.exists()
    assert [path.name for path in run.set_aside.iterdir()] == ["attempt-1-checkpoint-120"]


def test_a_file_that_was_not_there_when_it_was_kept_is_damage(run: RunFiles) -> None:
    (kept(run, 120).path / "pytorch_model.bin").write_bytes(b"another pickle")
    assert newest(run, LINEAGE) is None


def test_a_link_in_the_place_of_a_file_is_damage_even_to_the_same_bytes(
    run: RunFiles, tmp_path: Path
) -> None:
    link_a_file(kept(run, 120).path, tmp_path / "elsewhere")
    assert newest(run, LINEAGE) is None


def test_a_checkpoint_under_another_ones_name_is_damage(run: RunFiles) -> None:
    path = kept(run, 120).path
    path.rename(path.with_name("checkpoint-130"))
    assert newest(run, LINEAGE) is None


def test_a_disk_that_is_away_for_a_moment_condemns_nothing(
    run: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = kept(run, 120)
    with monkeypatch.context() as away:
        away.setattr(os, "open", failing_with(OSError(116, "Stale file handle")))
        with pytest.raises(OSError, match="Stale"):
            newest(run, LINEAGE)
    assert newest(run, LINEAGE) == checkpoint


def test_a_file_that_the_disk_cannot_read_is_damage(
    run: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(run, 120)
    monkeypatch.setattr(checkpoints, "file_digest", failing_with(OSError(5, "Input/output error")))
    assert newest(run, LINEAGE) is None
    assert list(run.set_aside.iterdir())


def test_a_checkpoint_of_another_lineage_is_not_offered_and_not_touched(run: RunFiles) -> None:
    theirs = kept(run, 120)
    assert newest(run, OTHER) is None
    for step in (10, 20, 30):
        saved(run, step, attempt=2)
        keep_and_prune(run, 2, OTHER, step)
    found = newest(run, OTHER)
    assert found is not None
    assert found.step == 30
    assert newest(run, LINEAGE) == theirs


def test_keeping_alone_takes_nothing_from_who_may_be_using_it(run: RunFiles) -> None:
    """A worker that has lost its lease may find out late."""
    for step in (10, 20, 30):
        saved(run, step)
        keep(run, 1, LINEAGE, step)
    assert steps(run) == {10, 20, 30}


def test_pruning_keeps_the_newest_two(run: RunFiles) -> None:
    for step in (10, 20, 30, 40):
        kept(run, step, attempt=1 if step < 30 else 2)
    assert KEPT == 2
    assert steps(run) == {30, 40}


def test_pruning_spares_the_one_just_kept_even_when_others_are_further(run: RunFiles) -> None:
    for step in (100, 110):
        kept(run, step)
    late = kept(run, 5, attempt=2)
    assert late.path.is_dir()
    assert steps(run) == {5, 100, 110}


def test_what_a_crash_has_left_of_pruning_is_cleared_and_counts_for_nothing(
    run: RunFiles,
) -> None:
    half_removed = kept(run, 10)
    (half_removed.path / MARKER).unlink()
    kept(run, 20)
    assert not half_removed.path.exists()
    assert steps(run) == {20}


def test_setting_aside_may_be_repeated(run: RunFiles) -> None:
    checkpoint = kept(run, 120)
    set_aside(run, checkpoint)
    set_aside(run, checkpoint)
    assert newest(run, LINEAGE) is None
    again = kept(run, 120)  # as when the same attempt comes to that step once more
    set_aside(run, again)
    assert len(list(run.set_aside.iterdir())) == 2


class Crash(BaseException):
    """The supervisor's end: nothing after it happens."""


CALLS = ("open", "fsync", "close", "unlink", "mkdir", "rename", "rmdir", "lstat", "fdopen")


def crash_at(call: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """End at the given call that the operating system gets; says how many have been made."""
    made = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*args: Any, **keys: Any) -> Any:
            nonlocal made
            made += 1
            if made == call:
                raise Crash
            return original(*args, **keys)

        return replacement

    for name in CALLS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    return lambda: made


def failing_with(error: OSError) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_crash_at_any_point_of_keeping_leaves_a_whole_one_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = moved = 0
    for call in range(1, 1000):
        run = RunFiles(tmp_path / f"run_{call}")
        older = [kept(run, step) for step in (10, 20)]
        saved(run, 30)
        with monkeypatch.context() as patched:
            crash_at(call, patched)
            try:
                keep_and_prune(run, 1, LINEAGE, 30)
                break
            except Crash:
                crashes += 1
        found = newest(run, LINEAGE)
        assert found in (older[1], replace(older[1], path=place(run, 30), step=30))
        moved += found != older[1]
        again = keep_and_prune(run, 1, LINEAGE, 30)
        assert again == newest(run, LINEAGE)
        assert again is not None
        assert again.step == 30
        assert steps(run) == {20, 30}
    assert crashes > 20
    assert 0 < moved < crashes


def place(run: RunFiles, step: int) -> Path:
    return run.checkpoints / "attempt-1" / f"checkpoint-{step}"


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_refuses_is_an_error_and_the_checkpoint_can_be_kept_later(
    run: RunFiles, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    saved(run, 120)
    with monkeypatch.context() as full:
        full.setattr(os, call, failing_with(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            keep(run, 1, LINEAGE, 120)
    assert newest(run, LINEAGE) is None
    assert keep(run, 1, LINEAGE, 120) is not None


def test_every_byte_is_on_disk_before_the_rename_and_the_rename_before_the_answer(
    run: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    at_rename: list[Path] = []
    fsync, rename = os.fsync, os.rename

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        at_rename.extend(synced)
        synced.clear()
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", note_rename)
    folder = saved(run, 120)
    files = set(folder.iterdir())
    keep(run, 1, LINEAGE, 120)
    assert set(at_rename) >= files | {folder / MARKER, folder, run.root, run.checkpoints}
    assert at_rename.index(folder) > at_rename.index(folder / MARKER)
    assert synced == [run.checkpoints / "attempt-1"]


def test_a_checkpoint_taken_away_while_it_is_judged_is_none(
    run: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(run, 120)
    original = checkpoints._is_whole

    def judged_then_gone(path: Path, step: int) -> bool:
        whole = original(path, step)
        shutil.rmtree(folder)
        return whole

    monkeypatch.setattr(checkpoints, "_is_whole", judged_then_gone)
    assert keep(run, 1, LINEAGE, 120) is None
