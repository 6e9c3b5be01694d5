"""Which rows are judged, what is asked, and what should come out."""

import json
from pathlib import Path
from typing import Any

import pytest

from finlora_core.datasets.cache import DatasetChecker
from finlora_core.errors import DatasetNotFound, InvalidDataset
from finlora_core.evaluation.config import EvaluationConfig
from finlora_core.evaluation.sets import FoundSet, find_sets, rows_in, sha256_of
from finlora_core.runs.config import PromptFormat
from finlora_core.settings import Settings
from tests.support import BASE_MODEL


def found(settings: Settings, *tasks: dict[str, Any]) -> list[FoundSet]:
    config = EvaluationConfig.model_validate({"base_model": BASE_MODEL, "tasks": list(tasks)})
    return list(find_sets(config, "local", settings, DatasetChecker()))


def write(settings: Settings, rows: list[Any], name: str = "rows.jsonl") -> dict[str, Any]:
    path: Path = settings.datasets[0] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) if row else "" for row in rows) + "\n")
    return {"dataset_path": name, "metric": "rouge_l"}


USER, BOT = {"role": "user", "content": "Up?"}, {"role": "assistant", "content": "No."}

PROMPTS = [
    (
        {"context": "Up?", "target": "No."},
        PromptFormat.INSTRUCTION,
        [("context", "[INST] Up? [/INST]")],
    ),
    (
        {"instruction": "Up?", "input": "It rose.", "output": "No."},
        PromptFormat.ALPACA,
        [("instruction", "Up?"), ("input", "It rose.")],
    ),
    ({"instruction": "Up?", "output": "No."}, PromptFormat.ALPACA, [("instruction", "Up?")]),
    (
        {"messages": [USER, {**BOT, "content": "Yes."}, USER, BOT, USER]},
        PromptFormat.CHAT,
        [("user", "Up?"), ("assistant", "Yes."), ("user", "Up?")],
    ),
]


@pytest.mark.parametrize(("row", "form", "given"), PROMPTS, ids=["1", "2", "3", "4"])
def test_a_row_is_asked_as_it_would_be_trained(
    settings: Settings, row: dict[str, Any], form: PromptFormat, given: list[tuple[str, str]]
) -> None:
    (one,) = found(settings, write(settings, [row, row]))
    asked = one.rows(None, 0).rows[0]
    assert (one.form, list(asked.given), asked.target) == (form, given, "No.")


def test_lines_are_those_of_the_file_though_some_are_blank(settings: Settings) -> None:
    row = {"context": "Up?", "target": "No."}
    (one,) = found(settings, write(settings, [row, None, None, row]))
    assert [each.line for each in one.rows(None, 0).rows] == [1, 4]


def test_a_limit_draws_without_repeating_and_in_the_files_order(settings: Settings) -> None:
    rows = [{"context": f"Row {n}", "target": "No."} for n in range(50)]
    (one,) = found(settings, write(settings, rows))
    drawn = [each.line for each in one.rows(20, 7).rows]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 20
    assert drawn != list(range(1, 21))
    assert one.rows(20, 7).sha256 == one.rows(20, 7).sha256 != one.rows(20, 8).sha256
    assert [each.line for each in one.rows(500, 7).rows] == list(range(1, 51))
    assert (rows_in([one], 20), rows_in([one], 500), rows_in([one], None)) == (20, 50, 50)


@pytest.mark.parametrize(
    "name", ["tfns_test.jsonl", "data/test/tfns_test.jsonl"], ids=["a folder", "a checkout"]
)
def test_a_task_finds_its_test_set(settings: Settings, name: str) -> None:
    (settings.datasets[0] / "lora").mkdir(parents=True)
    write(settings, [{"context": "Up", "target": "positive"}] * 2, name)
    (one,) = found(settings, {"task": "tfns"})
    assert one.path == (settings.datasets[0] / name).resolve()
    assert (one.name, one.task.max_new_tokens) == ("tfns", 10)


def test_without_its_test_set_a_task_says_where_it_is_looked_for(settings: Settings) -> None:
    with pytest.raises(DatasetNotFound, match=r"fiqa_test\.jsonl") as caught:
        found(settings, {"task": "fiqa"})
    assert caught.value.problems[0].key == "tasks.0.dataset_path"


def test_the_labels_of_own_data_are_its_targets(settings: Settings) -> None:
    rows = [{"context": "x", "target": target} for target in ("up", "down", "up", " Down ")]
    (one,) = found(settings, write(settings, rows) | {"metric": "accuracy"})
    assert one.task.labels == ("up", "down")


def test_an_empty_set_is_refused(settings: Settings) -> None:
    with pytest.raises(InvalidDataset, match="0 rows"):
        found(settings, write(settings, [None]))


def test_several_sets_have_a_hash_together(settings: Settings) -> None:
    row = {"context": "Up?", "target": "No."}
    first, second = write(settings, [row] * 2, "a.jsonl"), write(settings, [row] * 3, "b.jsonl")
    both, turned = found(settings, first, second), found(settings, second, first)
    assert sha256_of(both) != sha256_of(turned)
    assert rows_in(both, None) == 5
