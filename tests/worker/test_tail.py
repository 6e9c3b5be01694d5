"""Reading a growing file: whole lines, each once, and none lost when storing fails."""

import json
import random
from pathlib import Path

import pytest

from worker.tail import Tail, read_json, read_json_lines


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "train.log"


def append(file: Path, content: bytes) -> None:
    with file.open("ab") as opened:
        opened.write(content)


def test_only_whole_lines_are_read(file: Path) -> None:
    tail = Tail(file)
    append(file, b"one\ntwo\nthr")
    assert tail.read() == "one\ntwo\n"
    tail.commit()
    assert tail.read() == ""
    append(file, b"ee\n")
    assert tail.read() == "three\n"


def test_what_was_not_stored_is_read_again(file: Path) -> None:
    tail = Tail(file)
    append(file, b"one\n")
    assert tail.read() == "one\n"
    append(file, b"two\n")
    assert tail.read() == "one\ntwo\n"
    tail.commit()
    assert tail.read() == ""


def test_only_what_was_read_counts_as_stored(file: Path) -> None:
    tail = Tail(file)
    append(file, b"one\n")
    tail.read()
    append(file, b"two\n")
    tail.commit()
    tail.commit()
    assert tail.position == len(b"one\n")
    assert tail.read() == "two\n"


def test_storing_without_reading_moves_nothing(file: Path) -> None:
    append(file, b"one\ntwo\n")
    tail = Tail(file, position=len(b"one\n"))
    tail.commit()
    assert tail.read() == "two\n"


def test_a_file_that_is_not_there_yet_is_empty(file: Path) -> None:
    tail = Tail(file)
    assert tail.read() == ""
    tail.commit()
    append(file, b"one\n")
    assert tail.read() == "one\n"


def test_a_file_that_goes_away_loses_nothing_when_it_returns(file: Path) -> None:
    tail = Tail(file)
    append(file, b"one\n")
    tail.read()
    tail.commit()
    file.rename(file.with_suffix(".away"))
    assert tail.read() == ""
    tail.commit()
    file.with_suffix(".away").rename(file)
    append(file, b"two\n")
    assert tail.read() == "two\n"


def test_no_more_than_the_limit_is_read_at_once(file: Path) -> None:
    tail = Tail(file)
    append(file, b"12345\n" * 4)
    pieces = []
    while piece := tail.read(limit=14):
        pieces.append(piece)
        tail.commit()
    assert pieces == ["12345\n12345\n"] * 2


def test_a_line_longer_than_the_limit_does_not_hold_up_the_rest(file: Path) -> None:
    tail = Tail(file)
    append(file, b"x" * 25 + b"\nnext\n")
    pieces = []
    while piece := tail.read(limit=10):
        pieces.append(piece)
        tail.commit()
    assert pieces == ["x" * 10, "x" * 10, "xxxxx\n", "next\n"]


def test_a_line_without_its_end_waits_while_it_is_within_the_limit(file: Path) -> None:
    append(file, b"x" * 9)
    assert Tail(file).read(limit=10) == ""


def test_bytes_that_are_not_utf_8_cost_no_line(file: Path) -> None:
    tail = Tail(file)
    append(file, b"caf\xe9\nna\xc3\xafve\n")
    assert tail.read() == "caf\N{REPLACEMENT CHARACTER}\nnaïve\n"
    tail.commit()
    assert tail.position == file.stat().st_size


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_or_doubled_however_writing_reading_and_storing_interleave(
    file: Path, seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311  # the same order each time
    content = b"".join(b"%d%s\n" % (n, b"." * rng.randint(0, 30)) for n in range(100))
    tail, stored, written = Tail(file), "", 0
    while written < len(content) or tail.position < len(content):
        step = rng.randint(0, 40)
        append(file, content[written : written + step])
        written += step
        read = tail.read(limit=rng.randint(8, 64))
        if rng.random() < 0.7:
            tail.commit()
            stored += read
    assert stored == content.decode()


def test_json_lines_become_objects() -> None:
    assert read_json_lines('{"step": 1}\n\n{"step": 2}\n') == [{"step": 1}, {"step": 2}]
    assert read_json_lines("") == []


def test_an_object_that_is_replaced_as_a_whole_is_none_until_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    assert read_json(path) is None
    path.write_text(json.dumps({"step": 1}))
    assert read_json(path) == {"step": 1}


def test_a_line_that_is_no_json_object_is_left_out() -> None:
    text = '{"step": 1}\n{"st\n[1]\n' + "[" * 100_000 + '\n{"step": 2}\n'
    assert read_json_lines(text) == [{"step": 1}, {"step": 2}]
