"""What was published is what is there, to the bit."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from finlora_core.adapters.manifest import (
    CARD,
    CONFIG,
    MANIFEST,
    SCHEMA_VERSION,
    SELF,
    WEIGHTS,
    canonical,
    sha256_of,
    write_manifest,
)
from finlora_core.adapters.verify import Fault, verify
from tests.lora import write_adapter

FACTS = {"adapter_id": "adp_1", "name": "sentiment", "seed": 42, "text": "Zürich"}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    write_adapter(folder, rank=2)
    (folder / "optimizer.pt").unlink()
    (folder / CARD).write_text("# sentiment\n")
    write_manifest(folder, FACTS)
    return folder


def faults(folder: Path, sha256: str | None = None) -> list[tuple[str, Fault]]:
    return [(problem.path, problem.fault) for problem in verify(folder, sha256)]


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return content


def rewrite(folder: Path, content: Mapping[str, Any]) -> None:
    (folder / MANIFEST).write_bytes(canonical(content))


def test_a_manifest_lists_every_other_file_and_says_where_it_comes_from(adapter: Path) -> None:
    manifest = read(adapter)
    listed = {file["path"]: (file["size"], file["sha256"]) for file in manifest["files"]}
    there = [path for path in adapter.iterdir() if path.name != MANIFEST]
    assert listed == {path.name: (path.stat().st_size, sha256_of(path)) for path in there}
    assert manifest["schema_version"] == SCHEMA_VERSION
    assert FACTS.items() <= manifest.items()


def test_the_same_facts_give_the_same_manifest(adapter: Path) -> None:
    before = (adapter / MANIFEST).read_bytes()
    write_manifest(adapter, dict(reversed(FACTS.items())))
    assert (adapter / MANIFEST).read_bytes() == before


def test_a_sound_adapter_has_no_problems(adapter: Path) -> None:
    assert verify(adapter) == verify(adapter, sha256_of(adapter / MANIFEST)) == []


@pytest.mark.parametrize("row_is_known", [True, False])
def test_any_one_flipped_bit_in_any_file_is_found(adapter: Path, row_is_known: bool) -> None:
    """Every bit of the small files, each byte of the large one; with and without the row."""
    sha256 = sha256_of(adapter / MANIFEST) if row_is_known else None
    rng = random.Random(11)  # noqa: S311  # the same flips each time
    flips = 0
    for path in sorted(adapter.iterdir()):
        whole = path.read_bytes()
        bits = range(8 * len(whole))
        few = bits if len(whole) < 64 else [8 * n + rng.randrange(8) for n in range(len(whole))]
        for bit in few:
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            found = faults(adapter, sha256)
            assert found, f"bit {bit} of {path.name}"
            assert [name for name, _ in found] == [path.name]
            flips += 1
        path.write_bytes(whole)
    assert flips > 2000
    assert verify(adapter, sha256) == []


def test_each_file_is_named_with_what_is_wrong(adapter: Path, tmp_path: Path) -> None:
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:-1])
    (adapter / CARD).unlink()
    (adapter / "left.over").touch()
    (adapter / CONFIG).rename(tmp_path / "moved")
    (adapter / CONFIG).symlink_to(tmp_path / "moved")
    (adapter / "tokenizer.json").write_text("[]")
    assert set(faults(adapter)) == {
        (WEIGHTS, Fault.SIZE),
        (CARD, Fault.MISSING),
        ("left.over", Fault.EXTRA),
        (CONFIG, Fault.NOT_A_FILE),
        ("tokenizer.json", Fault.SHA256),
    }
    assert "README.md: is missing" in map(str, verify(adapter))


def test_a_folder_in_the_place_of_a_file_is_no_file(adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()
    (adapter / WEIGHTS).mkdir()
    assert faults(adapter) == [(WEIGHTS, Fault.NOT_A_FILE)]


def test_files_changed_together_with_their_manifest_are_found_by_the_rows_hash(
    adapter: Path,
) -> None:
    published = sha256_of(adapter / MANIFEST)
    (adapter / WEIGHTS).write_bytes(b"something else")
    write_manifest(adapter, FACTS)
    assert verify(adapter) == []
    assert faults(adapter, published) == [(MANIFEST, Fault.MANIFEST)]


def test_a_manifest_of_before_there_were_schema_versions_still_counts(adapter: Path) -> None:
    manifest = read(adapter)
    del manifest[SELF], manifest["schema_version"]
    (adapter / MANIFEST).write_text(json.dumps(manifest, indent=2))
    assert verify(adapter, sha256_of(adapter / MANIFEST)) == []
    (adapter / WEIGHTS).write_bytes(b"something else")
    assert faults(adapter) == [(WEIGHTS, Fault.SIZE)]


BAD_MANIFESTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda folder: (folder / MANIFEST).write_bytes(b""),
    "no JSON": lambda folder: (folder / MANIFEST).write_bytes(b"\x80\x04K."),
    "a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "nested too deep": lambda folder: (folder / MANIFEST).write_text("[" * 100_000),
    "no files": lambda folder: rewrite(folder, {}),
    "an empty list of files": lambda folder: rewrite(folder, {"files": []}),
    "files without hashes": lambda folder: rewrite(folder, {"files": [{"path": "x"}]}),
    "a file twice": lambda folder: rewrite(folder, {"files": read(folder)["files"] * 2}),
    "a key that it lacked": lambda folder: rewrite(folder, {**read(folder), "seed": 43}),
    "NaN": lambda folder: (folder / MANIFEST).write_text(
        json.dumps({**read(folder), "seed": float("nan")})
    ),
    "other spaces": lambda folder: (folder / MANIFEST).write_text(json.dumps(read(folder))),
}


@pytest.mark.parametrize("spoil", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_manifest_that_is_no_manifest_is_the_problem(
    adapter: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(adapter)
    assert faults(adapter) == [(MANIFEST, Fault.MANIFEST)]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "", "x\0y", MANIFEST])
def test_nothing_outside_the_folder_is_looked_at(adapter: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("of somebody")
    file = {"path": name, "size": 11, "sha256": sha256_of(tmp_path / "secret")}
    rewrite(adapter, {"files": [file]})
    assert faults(adapter) == [(MANIFEST, Fault.MANIFEST)]


def test_a_folder_without_a_manifest_cannot_be_verified(tmp_path: Path) -> None:
    assert faults(tmp_path) == faults(tmp_path / "nowhere") == [(MANIFEST, Fault.MISSING)]


def test_progress_is_told_in_bytes(adapter: Path) -> None:
    told: list[tuple[str, int, int]] = []
    verify(adapter, report=lambda *step: told.append(step))
    sizes = {file["path"]: file["size"] for file in read(adapter)["files"]}
    assert {name: done for name, done, _ in told} == sizes
    assert {name: size for name, _, size in told} == sizes
