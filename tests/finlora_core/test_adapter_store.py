"""Adapters on disk: staged, published whole, linked, discarded, and streamed as an archive."""

import hashlib
import io
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from finlora_core.adapters import archive
from finlora_core.adapters.manifest import CARD, CONFIG, MANIFEST, PUBLISHED, WEIGHTS, describe
from finlora_core.adapters.store import AdapterStore
from finlora_core.errors import AdapterFilesMissing


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "lora_adaptors")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What Axolotl leaves behind: an adapter, and much that nobody is to get."""
    folder = tmp_path / "output"
    (folder / "checkpoint-20").mkdir(parents=True)
    for name in (*PUBLISHED, "optimizer.pt", "adapter_model.bin", "training_args.bin",
                 "config.json", "README.md", "debug.log", "checkpoint-20/" + WEIGHTS):  # fmt: skip
        (folder / name).write_text(f"content of {name}")
    return folder


def publish(store: AdapterStore, id: str, output: Path, weights: str = "w") -> Path:
    (output / WEIGHTS).write_text(weights)
    return store.publish(id, store.stage(id, output))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---- stage


def test_only_what_belongs_to_an_adapter_is_taken(store: AdapterStore, output: Path) -> None:
    staged = store.stage("adp_1", output)
    assert names(staged) == set(PUBLISHED)
    assert (staged / WEIGHTS).read_text() == f"content of {WEIGHTS}"


def test_pickles_are_not_on_the_list_of_what_is_taken() -> None:
    assert {Path(name).suffix for name in PUBLISHED} == {
        ".json", ".safetensors", ".model", ".txt", ".jinja",
    }  # fmt: skip


def test_a_link_is_not_taken(store: AdapterStore, output: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the worker")
    (output / "tokenizer.json").unlink()
    (output / "tokenizer.json").symlink_to(tmp_path / "secret")
    assert names(store.stage("adp_1", output)) == set(PUBLISHED) - {"tokenizer.json"}


def test_a_folder_of_a_published_name_is_not_taken(store: AdapterStore, output: Path) -> None:
    (output / "vocab.json").unlink()
    (output / "vocab.json").mkdir()
    assert "vocab.json" not in names(store.stage("adp_1", output))


def test_staging_again_starts_afresh(store: AdapterStore, output: Path) -> None:
    (store.stage("adp_1", output) / "left.over").touch()
    (output / "merges.txt").unlink()
    assert names(store.stage("adp_1", output)) == set(PUBLISHED) - {"merges.txt"}


def test_staging_leaves_axolotls_output_as_it_was(store: AdapterStore, output: Path) -> None:
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    publish(store, "adp_1", output, f"content of {WEIGHTS}")
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


# ---- publish


def test_a_version_appears_whole_and_by_a_rename(store: AdapterStore, output: Path) -> None:
    staged = store.stage("adp_1", output)
    inode = staged.stat().st_ino
    assert not store.folder("adp_1").exists()
    final = store.publish("adp_1", staged)
    assert final == store.folder("adp_1")
    assert final.stat().st_ino == inode
    assert not staged.exists()
    assert names(final) == set(PUBLISHED)


def test_a_published_version_is_never_written_over(store: AdapterStore, output: Path) -> None:
    final = publish(store, "adp_1", output, "first")
    with pytest.raises(OSError, match="not empty"):
        publish(store, "adp_1", output, "second")
    assert (final / WEIGHTS).read_text() == "first"


# ---- link


def test_the_stable_path_gives_the_newest_version(store: AdapterStore, output: Path) -> None:
    for version, id in enumerate(("adp_1", "adp_2", "adp_3"), start=1):
        publish(store, id, output, f"version {version}")
        stable = store.link("local", "8bits_r8_dora", "sentiment", id)
        assert stable == store.stable_path("local", "8bits_r8_dora", "sentiment")
        assert (stable / WEIGHTS).read_text() == f"version {version}"
    assert (store.folder("adp_1") / WEIGHTS).read_text() == "version 1"
    assert names(stable.parent) == {"sentiment"}


def test_the_stable_path_is_where_finlora_keeps_its_adapters(
    store: AdapterStore, output: Path, tmp_path: Path
) -> None:
    publish(store, "adp_1", output)
    stable = store.link("local", "8bits_r8", "sentiment", "adp_1")
    assert stable == tmp_path / "lora_adaptors" / "8bits_r8" / "sentiment"


def test_links_still_lead_there_when_the_whole_folder_has_moved(
    store: AdapterStore, output: Path, tmp_path: Path
) -> None:
    publish(store, "adp_1", output, "weights")
    stable = store.link("local", "8bits_r8", "sentiment", "adp_1")
    (tmp_path / "lora_adaptors").rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / stable.relative_to(tmp_path / "lora_adaptors")
    assert (moved / WEIGHTS).read_text() == "weights"


def test_a_link_that_a_crash_left_half_made_is_in_nobodys_way(
    store: AdapterStore, output: Path
) -> None:
    publish(store, "adp_1", output, "weights")
    stable = store.stable_path("local", "8bits_r8", "sentiment")
    stable.parent.mkdir()
    stable.with_name(".sentiment.adp_1").symlink_to("nowhere")
    assert (
        store.link("local", "8bits_r8", "sentiment", "adp_1") / WEIGHTS
    ).read_text() == "weights"


# ---- discard


def test_a_discarded_version_is_gone_and_the_others_stay(
    store: AdapterStore, output: Path
) -> None:
    publish(store, "adp_1", output)
    publish(store, "adp_2", output)
    store.discard("adp_2")
    assert not store.folder("adp_2").exists()
    assert names(store.folder("adp_1")) == set(PUBLISHED)


def test_discarding_what_was_never_published_changes_nothing(
    store: AdapterStore, output: Path
) -> None:
    publish(store, "adp_1", output)
    store.discard("adp_2")
    assert store.folder("adp_1").is_dir()


# ---- require


def test_a_version_whose_files_are_whole_is_there(store: AdapterStore, output: Path) -> None:
    final = publish(store, "adp_1", output)
    assert store.require("adp_1", describe(final, PUBLISHED)) == final


@pytest.mark.parametrize("weights", ["", "half"])
def test_a_version_that_is_not_whole_any_more_is_named(
    store: AdapterStore, output: Path, weights: str
) -> None:
    final = publish(store, "adp_1", output, "all of it")
    listed = describe(final, PUBLISHED)
    (final / WEIGHTS).write_text(weights)
    with pytest.raises(AdapterFilesMissing, match=f"'adp_1' is listed, but {WEIGHTS} is not"):
        store.require("adp_1", listed)


def test_a_version_that_is_gone_is_named(store: AdapterStore, output: Path) -> None:
    listed = describe(publish(store, "adp_1", output), PUBLISHED)
    store.discard("adp_1")
    with pytest.raises(AdapterFilesMissing, match="'adp_1' is listed, but"):
        store.require("adp_1", listed)


# ---- manifest


def test_a_manifest_lists_each_file_with_its_size_and_hash(output: Path) -> None:
    listed = describe(output, [WEIGHTS, CONFIG, "missing.json", "checkpoint-20"])
    content = f"content of {WEIGHTS}".encode()
    assert [file.path for file in listed] == [CONFIG, WEIGHTS]
    assert listed[1].size == len(content)
    assert listed[1].sha256 == hashlib.sha256(content).hexdigest()


# ---- archive

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Files around the sizes that matter: tar's blocks of 512 and our chunks of 1 MiB."""
    folder = tmp_path / "published"
    folder.mkdir()
    sizes = {CARD: 0, CONFIG: 1, MANIFEST: 511, "merges.txt": 512, "vocab.json": 513,
             WEIGHTS: archive.CHUNK + 1}  # fmt: skip
    for number, (name, size) in enumerate(sizes.items()):
        (folder / name).write_bytes(bytes([65 + number]) * size)
    return folder


def archived(folder: Path, top: str, at: datetime = AT) -> bytes:
    return b"".join(archive.stream(folder, describe(folder, names(folder)), top=top, at=at))


@pytest.mark.parametrize("top", ["sentiment", "n" * 128, "n" * 300])
def test_an_archive_opens_as_a_tar_with_every_file_below_one_folder(
    published: Path, top: str
) -> None:
    with tarfile.open(fileobj=io.BytesIO(archived(published, top))) as opened:
        contents = {
            member.name: content.read()
            for member in opened
            if (content := opened.extractfile(member)) is not None
        }
        assert {member.mtime for member in opened} == {int(AT.timestamp())}
    assert contents == {f"{top}/{path.name}": path.read_bytes() for path in published.iterdir()}


def test_an_archive_ends_as_a_tar_does(published: Path) -> None:
    content = archived(published, "sentiment")
    assert content.endswith(b"\0" * 1024)
    assert not content.endswith(b"\0" * 2048)


@pytest.mark.parametrize("top", ["sentiment", "n" * 128, "n" * 300, "財務"])
def test_the_size_of_an_archive_is_known_before_its_first_byte(published: Path, top: str) -> None:
    files = describe(published, names(published))
    assert archive.size(files, top=top) == len(archived(published, top))


def test_the_same_adapter_gives_the_same_bytes_each_time(published: Path) -> None:
    first = archived(published, "sentiment")
    (published / WEIGHTS).touch()
    (published / WEIGHTS).chmod(0o600)
    assert archived(published, "sentiment") == first


def test_an_archive_holds_only_what_the_manifest_lists(published: Path) -> None:
    files = describe(published, [CONFIG])
    content = b"".join(archive.stream(published, files, top="sentiment", at=AT))
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        assert opened.getnames() == [f"sentiment/{CONFIG}"]


def test_an_archive_is_streamed_in_small_pieces(published: Path) -> None:
    files = describe(published, names(published))
    pieces = list(archive.stream(published, files, top="sentiment", at=AT))
    assert max(map(len, pieces)) <= archive.CHUNK
