"""`finlora datasets …` against a real API."""

from pathlib import Path

from tests.cli.conftest import Finlora
from tests.support import write_dataset


def test_a_dataset_is_uploaded_listed_and_deleted(finlora: Finlora, tmp_path: Path) -> None:
    said = finlora("datasets", "upload", write_dataset(tmp_path / "mine.jsonl", rows=4)).stdout
    id = said.split()[0]
    assert said == f"{id}  4 rows, instruction\n"
    heads, row = [line.split() for line in finlora("datasets", "list").stdout.splitlines()]
    assert (heads[0], row[:3]) == ("dataset", [id, "mine.jsonl", "4"])
    assert finlora("datasets", "delete", id).returncode == 0
    again = finlora("datasets", "delete", id)
    assert (again.returncode, "not_found" in again.stderr) == (1, True)


def test_a_bad_row_is_named_by_its_line(finlora: Finlora, tmp_path: Path) -> None:
    file = write_dataset(tmp_path / "mine.jsonl")
    file.write_text(file.read_text() + "nonsense\n")
    done = finlora("datasets", "upload", file)
    assert done.returncode == 1
    assert "invalid_dataset: mine.jsonl, line 3: not JSON" in done.stderr
