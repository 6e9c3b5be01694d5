"""A file of run configs: what is chosen from it, and where a mistake in it stands."""

import json
from pathlib import Path
from typing import Any

import pytest

from finlora_core.errors import InvalidConfigFile, UnknownName
from finlora_core.runs.config_file import find_checkout, read_config_file
from finlora_core.suggest import suggest

GOOD = {"base_model": "org/model", "dataset_path": "../data/train/x.jsonl", "quant_bits": 8}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "configs.json"


def test_a_chosen_run_is_posted_as_it_is_written_under_its_name(file: Path) -> None:
    write(file, {"other": {"base_model": 1}, "mine": GOOD})
    (chosen,) = read_config_file(file).choose(["mine"])
    assert chosen.body == {**GOOD, "name": "mine"}
    assert (chosen.request.run_name, chosen.request.config.variant) == ("mine", "8bits_r8")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "line 1, column 2: not JSON"),
        ('{\n  "a": {},\n}', "line 3, column 1: not JSON"),
        ("[]", "must be an object of run name"),
        ("3", "must be an object of run name"),
        (json.dumps(GOOD), "put it under a name"),
        ('{"a": ' + "[" * 100_000, "cannot be read as JSON"),
        ('{"a": ' + "1" * 5000 + "}", "cannot be read as JSON"),
        ('{\n "a": {},\n "b": {},\n\n "a": {}\n}', "line 5: 'a' is there twice, first in line 2"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_place(
    file: Path, content: str, said: str
) -> None:
    with pytest.raises(InvalidConfigFile) as refused:
        read_config_file(write(file, content))
    assert said in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigFile, match=r"nope\.json: cannot be read: No such file"):
        read_config_file(tmp_path / "nope.json")
    (tmp_path / "latin").write_bytes(b'{"a\xe9": {}}')
    with pytest.raises(InvalidConfigFile, match="not UTF-8"):
        read_config_file(tmp_path / "latin")


BAD_RUNS = """{
  "good": {"base_model": "org/model", "dataset_path": "x.jsonl"},
  "typo": {
    "base_model": "org/model",
    "dataset_path": "x.jsonl",
    "learning_rat": 1e-4,
    "lora_r": 0
  },
  "number": 7,
  "twice": {"base_model": "org/model", "dataset_path": "x.jsonl",
            "lora_r": 8,
            "lora_r": 4},
  "named": {"base_model": "org/model", "dataset_path": "x.jsonl",
            "name": "other"},
  "no such name": {"base_model": "org/model", "dataset_path": "x.jsonl"},
  "hollow": {}
}"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("typo", "line 6, run 'typo': learning_rat: unknown key; did you mean 'learning_rate'?"),
        ("typo", "line 7, run 'typo': lora_r: should be greater than or equal to 1"),
        ("number", "line 9, run 'number': must be an object"),
        ("twice", "line 12, run 'twice': 'lora_r' is there twice, first in line 11"),
        ("named", "line 14, run 'named': name: the run has its name already"),
        ("no such name", "line 15, run 'no such name': name: must be letters"),
        ("hollow", "line 16, run 'hollow': base_model: this key is required"),
    ],
)
def test_a_mistake_in_a_chosen_run_names_line_run_and_key(
    file: Path, name: str, said: str
) -> None:
    configs = read_config_file(write(file, BAD_RUNS))
    with pytest.raises(InvalidConfigFile) as refused:
        configs.choose(["good", name])
    assert f"{file}, {said}" in str(refused.value)


def test_every_mistake_is_told_at_once(file: Path) -> None:
    configs = read_config_file(write(file, BAD_RUNS))
    with pytest.raises(InvalidConfigFile) as refused:
        configs.choose(configs.names)
    assert len(str(refused.value).splitlines()) == 8


def test_a_mistake_in_a_run_that_is_not_chosen_is_left_alone(file: Path) -> None:
    (chosen,) = read_config_file(write(file, BAD_RUNS)).choose(["good"])
    assert chosen.name == "good"


def test_an_unknown_name_gets_the_close_ones_and_how_many_there_are(file: Path) -> None:
    names = ["sentiment_8bits_r8", "sentiment_4bits_r4", "headline_8bits_r8"]
    configs = read_config_file(write(file, dict.fromkeys(names, GOOD)))
    with pytest.raises(UnknownName) as refused:
        configs.choose(["sentimet_8bits_r8"])
    assert "of 3: sentiment_8bits_r8" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SENTIMENT", "close to it of 3: sentiment_a, sentiment_b"),
        ("zzz", "the first of 3: sentiment_a, sentiment_b, other"),
        ("", "the first of 3: sentiment_a, sentiment_b, other"),
    ],
)
def test_names_that_hold_the_word_are_close(name: str, said: str) -> None:
    assert suggest(name, ["sentiment_a", "sentiment_b", "other"]) == said


def test_where_there_is_nothing_there_is_nothing_close() -> None:
    assert suggest("x", []) == "there are none"


def test_a_checkout_is_found_from_a_config_file_in_it(tmp_path: Path) -> None:
    checkout = tmp_path / "FinLoRA"
    (checkout / "lora" / "mine").mkdir(parents=True)
    assert find_checkout(checkout / "lora" / "configs.json") is None
    (checkout / "data").mkdir()
    for place in ("configs.json", "lora/configs.json", "lora/mine/configs.json"):
        assert find_checkout(checkout / place) == checkout
    assert find_checkout(tmp_path / "configs.json") is None


def test_a_byte_order_mark_is_no_mistake(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": GOOD}).encode())
    assert read_config_file(file).names == ["a"]
