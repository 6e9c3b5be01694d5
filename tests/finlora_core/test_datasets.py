"""Where a dataset may lie, which rows can be trained on, and when a file is read again."""

import hashlib
import os
from pathlib import Path

import pytest

from finlora_core.datasets import check
from finlora_core.datasets.cache import DatasetChecker
from finlora_core.datasets.check import check_dataset
from finlora_core.datasets.locate import locate_dataset
from finlora_core.errors import DatasetNotFound, InvalidDataset
from tests.support import FORM

ROW = b'{"context": "Profit rose.", "target": "positive"}\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset root with one file, beside a secret that is outside of it."""
    (tmp_path / "secret.jsonl").write_bytes(ROW)
    (tmp_path / "root-of-another").mkdir()
    (tmp_path / "root-of-another" / "x.jsonl").write_bytes(ROW)
    return _file(tmp_path / "root" / "x.jsonl").parent


def _file(path: Path, content: bytes = ROW * 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# ---- where it may lie


@pytest.mark.parametrize("written", ["x.jsonl", "./x.jsonl", "../root/x.jsonl"])
def test_a_file_in_a_root_is_found(root: Path, written: str) -> None:
    assert locate_dataset(written, [root]) == root / "x.jsonl"


def test_finloras_own_paths_work_when_the_root_is_a_checkout(tmp_path: Path) -> None:
    data = _file(tmp_path / "data" / "train" / "x.jsonl")
    (tmp_path / "lora").mkdir()
    assert locate_dataset("../data/train/x.jsonl", [tmp_path]) == data


def test_an_absolute_path_inside_a_root_is_found(root: Path) -> None:
    assert locate_dataset(str(root / "x.jsonl"), [root]) == root / "x.jsonl"


def test_roots_are_searched_in_their_order(root: Path, tmp_path: Path) -> None:
    second = _file(tmp_path / "second" / "x.jsonl").parent
    only_there = _file(second / "y.jsonl")
    assert locate_dataset("x.jsonl", [root, second]) == root / "x.jsonl"
    assert locate_dataset("x.jsonl", [second, root]) == second / "x.jsonl"
    assert locate_dataset("y.jsonl", [root, second]) == only_there


def test_a_link_to_a_file_in_a_root_gives_the_file(root: Path) -> None:
    (root / "latest.jsonl").symlink_to("x.jsonl")
    assert locate_dataset("latest.jsonl", [root]) == root / "x.jsonl"


def test_a_root_may_itself_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(root)
    assert locate_dataset("x.jsonl", [tmp_path / "data"]) == root / "x.jsonl"


@pytest.mark.parametrize(
    "written",
    [
        "../secret.jsonl",
        "lora/../../secret.jsonl",
        "../../secret.jsonl",
        "../root-of-another/x.jsonl",
        "{root}/../secret.jsonl",
        "{outside}/secret.jsonl",
        "link-out.jsonl",
        "folder-out/secret.jsonl",
        "file://{root}/x.jsonl",
        "https://example.org/x.jsonl",
        "s3://bucket/x.jsonl",
        "folder",
        ".",
        "/",
        "",
        "x.jsonl/y.jsonl",
        "missing.jsonl",
        "~/x.jsonl",
    ],
)
def test_what_is_no_file_inside_the_roots_is_not_found(root: Path, written: str) -> None:
    (root / "folder").mkdir()
    _file(root / "https:" / "example.org" / "x.jsonl")  # a URL is no path to it
    (root / "link-out.jsonl").symlink_to(root.parent / "secret.jsonl")
    (root / "folder-out").symlink_to(root.parent)
    written = written.format(root=root, outside=root.parent)
    with pytest.raises(DatasetNotFound) as caught:
        locate_dataset(written, [root])
    (problem,) = caught.value.problems
    assert (problem.key, problem.code) == ("dataset_path", "dataset_not_found")
    assert repr(written) in problem.message


def test_a_refusal_does_not_tell_whether_a_file_outside_exists(root: Path) -> None:
    answers = []
    for name in ("secret", "public"):
        with pytest.raises(DatasetNotFound) as caught:
            locate_dataset(f"{root.parent}/{name}.jsonl", [root])
        answers.append(str(caught.value).replace(name, "?"))
    assert answers[0] == answers[1]


def test_without_roots_nothing_is_found(root: Path) -> None:
    with pytest.raises(DatasetNotFound):
        locate_dataset(str(root / "x.jsonl"), [])


# ---- whether it can be trained on


def test_a_dataset_is_its_rows_and_the_hash_of_the_whole_file(tmp_path: Path) -> None:
    content = ROW + b"\n" + b'{"target":"b","context":"a","id":7}\r\n' + b"  \t\n" + ROW.strip()
    facts = check_dataset(_file(tmp_path / "x.jsonl", content), FORM, shown_as="x.jsonl")
    assert facts.rows == 3
    assert facts.sha256 == hashlib.sha256(content).hexdigest()


def test_windows_line_breaks_and_any_letters_are_fine(tmp_path: Path) -> None:
    content = '{"context": "Umsätze ↑ 財務 \u2028", "target": ""}\r\n'.encode() * 2
    assert check_dataset(_file(tmp_path / "x.jsonl", content), FORM, shown_as="x").rows == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'context': 'a', 'target': 'b'}", "not JSON"),
        (b'{"context": "a", "target": "b"', "not JSON"),
        (ROW.strip() * 2, "not JSON"),
        (b"\xef\xbb\xbf" + ROW.strip(), "BOM"),
        (b"[" * 100_000, "not JSON"),
        (b'["a", "b"]', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"target": "b"}', "'context' must be there"),
        (b'{"context": "a"}', "'target' must be there"),
        (b'{"context": "a", "target": 1}', "'target' must be there and be a string"),
        (b'{"context": null, "target": "b"}', "'context' must be there and be a string"),
        (b'{"context": ["a"], "target": "b"}', "'context' must be there and be a string"),
        (b'{"context": "caf\xe9", "target": "b"}', "not UTF-8 (byte 17)"),
        (b'{"context": "a\x00", "target": "b"}', "not JSON"),
    ],
)
def test_the_first_bad_row_is_named_with_its_line(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    file = _file(tmp_path / "x.jsonl", ROW + b"\n" + line + b"\n" + b"worse\n")
    with pytest.raises(InvalidDataset) as caught:
        check_dataset(file, FORM, shown_as="../data/x.jsonl")
    (problem,) = caught.value.problems
    assert (problem.key, problem.code) == ("dataset_path", "invalid_dataset")
    assert problem.message.startswith("../data/x.jsonl, line 3: ")
    assert reason in problem.message


def test_utf_16_is_refused(tmp_path: Path) -> None:
    file = _file(tmp_path / "x.jsonl", ROW.decode().encode("utf-16"))
    with pytest.raises(InvalidDataset, match="line 1: not UTF-8"):
        check_dataset(file, FORM, shown_as="x.jsonl")


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n  \n\t\n"])
def test_a_dataset_without_rows_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidDataset, match=r"^x\.jsonl has 0 rows"):
        check_dataset(_file(tmp_path / "x.jsonl", content), FORM, shown_as="x.jsonl")


def test_a_line_longer_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _file(tmp_path / "x.jsonl", ROW + ROW.replace(b"Profit", b"Profits") + ROW)
    monkeypatch.setattr(check, "MAX_LINE_BYTES", len(ROW) + 1)
    assert check_dataset(file, FORM, shown_as="x").rows == 3
    monkeypatch.setattr(check, "MAX_LINE_BYTES", len(ROW))
    with pytest.raises(InvalidDataset, match=rf"^x, line 2: longer than {len(ROW)} bytes"):
        check_dataset(file, FORM, shown_as="x")


@pytest.mark.parametrize("path", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidDataset, match=r"^x\.jsonl cannot be read: "):
        check_dataset(tmp_path / path, FORM, shown_as="x.jsonl")


# ---- when it is read again


def _times(file: Path) -> tuple[int, int]:
    return file.stat().st_atime_ns, file.stat().st_mtime_ns


def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    file = _file(tmp_path / "x.jsonl")
    before = _times(file)
    checker = DatasetChecker()
    facts = checker.facts(file, FORM, shown_as="x")
    file.write_bytes(b"?" * len(ROW * 2))  # would be refused, were it read
    os.utime(file, ns=before)
    assert checker.facts(file, FORM, shown_as="x") == facts


def test_a_file_with_another_time_is_read_again(tmp_path: Path) -> None:
    file = _file(tmp_path / "x.jsonl")
    atime, mtime = _times(file)
    checker = DatasetChecker()
    checker.facts(file, FORM, shown_as="x")
    file.write_bytes(b"?" * len(ROW * 2))
    os.utime(file, ns=(atime, mtime + 1))
    with pytest.raises(InvalidDataset):
        checker.facts(file, FORM, shown_as="x")


def test_a_file_with_another_size_is_read_again(tmp_path: Path) -> None:
    file = _file(tmp_path / "x.jsonl")
    before = _times(file)
    checker = DatasetChecker()
    checker.facts(file, FORM, shown_as="x")
    file.write_bytes(ROW * 3)
    os.utime(file, ns=before)
    assert checker.facts(file, FORM, shown_as="x").rows == 3


def test_a_file_put_in_anothers_place_is_read(tmp_path: Path) -> None:
    file = _file(tmp_path / "x.jsonl")
    before = _times(file)
    checker = DatasetChecker()
    checker.facts(file, FORM, shown_as="x")
    _file(tmp_path / "new.jsonl", b"?" * len(ROW * 2)).replace(file)
    os.utime(file, ns=before)
    with pytest.raises(InvalidDataset):
        checker.facts(file, FORM, shown_as="x")


def test_a_bad_file_is_refused_each_time_until_it_is_mended(tmp_path: Path) -> None:
    file = _file(tmp_path / "x.jsonl", b"?")
    checker = DatasetChecker()
    for shown_as in ("x", "../x"):
        with pytest.raises(InvalidDataset, match=f"^{shown_as}, line 1"):
            checker.facts(file, FORM, shown_as=shown_as)
    file.write_bytes(ROW * 2)
    assert checker.facts(file, FORM, shown_as="x").rows == 2


def test_one_row_is_too_few_to_train_and_validate_on(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="has 1 rows, at least 2 are needed"):
        check_dataset(_file(tmp_path / "x.jsonl", ROW), FORM, shown_as="x")
