"""The bundled dataset is what its README says."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import DEMO_DATA

FILES = ("sentiment_train.jsonl", "sentiment_heldout.jsonl")


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DEMO_DATA / name).read_text().splitlines()]


def test_the_generator_writes_the_bundled_files_byte_for_byte(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "demo.make_data", str(tmp_path)], check=True)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (DEMO_DATA / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_every_label_is_as_frequent_as_the_others(name: str) -> None:
    counts = Counter(row["target"] for row in rows(name))
    assert set(counts) == {"positive", "negative", "neutral"}
    assert len(set(counts.values())) == 1


def test_no_held_out_row_occurs_in_training() -> None:
    train, heldout = ({row["context"] for row in rows(name)} for name in FILES)
    assert not train & heldout
    assert len(train) == len(rows(FILES[0]))


def test_held_out_numbers_do_not_occur_in_training() -> None:
    train, heldout = (
        {number for row in rows(name) for number in re.findall(r"\d[\d.,]*", row["context"])}
        for name in FILES
    )
    assert heldout
    assert not train & heldout
