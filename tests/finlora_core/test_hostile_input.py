"""Files and texts made to break their reader get the reader's own error, and nothing else."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from finlora_core.adapters.check import check_adapter
from finlora_core.datasets.cache import DatasetChecker
from finlora_core.datasets.check import check_dataset
from finlora_core.datasets.locate import locate_dataset
from finlora_core.errors import DatasetNotFound, InvalidAdapter, InvalidDataset, InvalidSettings
from finlora_core.redact import redact
from finlora_core.settings import load_settings
from finlora_core.training.diagnose import last_lines
from tests.finlora_core.test_adapter_check import RUN, A, B, adapter, good, safetensors, with_entry
from tests.support import FORM

WEIGHTS: dict[str, Callable[[], bytes]] = {
    "a header nested too deep": lambda: struct.pack("<Q", 100_000) + b"[" * 100_000,
    "an infinite offset": lambda: with_entry(A, data_offsets=[0, float("inf")]),
    "a shape in floats": lambda: with_entry(A, shape=[4.0, 8.0]),
    "a flat lora_B": lambda: with_entry(B, shape=[24]),
    "a lora_B without its lora_A": lambda: safetensors(
        good() | {B.replace("q_proj", "v_proj"): good()[B]}
    ),
}


@pytest.mark.parametrize("make", WEIGHTS.values(), ids=WEIGHTS)
def test_crafted_weights_are_refused(tmp_path: Path, make: Callable[[], bytes]) -> None:
    with pytest.raises(InvalidAdapter):
        check_adapter(adapter(tmp_path, make()), RUN)


def test_a_peft_config_nested_too_deep_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path, safetensors(good()))
    (tmp_path / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(InvalidAdapter, match="not JSON"):
        check_adapter(tmp_path, RUN)


def test_a_dora_adapter_without_magnitudes_is_refused(tmp_path: Path) -> None:
    run = RUN.model_copy(update={"peft_use_dora": True})
    peft = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_dora": True, "use_rslora": False}
    with pytest.raises(InvalidAdapter, match="lora_magnitude_vector"):
        check_adapter(adapter(tmp_path, safetensors(good()), peft), run)


@pytest.mark.parametrize("written", ["a" * 300 + ".jsonl", "loop", "x\0y"])
def test_an_impossible_path_is_a_dataset_that_is_not_there(tmp_path: Path, written: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DatasetNotFound):
        locate_dataset(written, [tmp_path])


@pytest.mark.parametrize(
    "row",
    [
        b'{"context": "a", "target": "b", "n": ' + b"1" * 5000 + b"}",
        b'{"context": "\\ud800", "target": "b"}',
        b"[" * 100_000,
    ],
    ids=["a number of 5,000 digits", "half a character", "nested too deep"],
)
def test_a_row_that_breaks_parsers_is_named_by_its_line(tmp_path: Path, row: bytes) -> None:
    (tmp_path / "x").write_bytes(b'{"context": "a", "target": "b"}\n' + row)
    with pytest.raises(InvalidDataset, match=r"x\.jsonl, line 2"):
        check_dataset(tmp_path / "x", FORM, shown_as="x.jsonl")


def test_a_dataset_that_vanishes_before_it_is_read_is_an_invalid_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="cannot be read"):
        DatasetChecker().facts(tmp_path / "gone", FORM, shown_as="gone")


@pytest.mark.parametrize(
    "text",
    [
        "redis://:hunter2@redis:6379/0",
        "https://hunter2@example.org/x",
        "postgresql://u:p@hunter2@db/x",
        "authorization: bearer hunter2",
    ],
)
def test_a_secret_is_redacted_however_it_is_written(text: str) -> None:
    assert "hunter2" not in redact(text)


def test_terminal_controls_of_eight_bits_are_stripped() -> None:
    assert redact("a\x9b31mb\x85") == "ab"


@pytest.mark.parametrize("end", ["  2.51s/it]", "  2.51it/s, loss=1]", "  8.1MB/s]"])
def test_progress_bars_do_not_crowd_out_the_error(end: str) -> None:
    bars = "\r".join(f"{n}%|###   | {n}/100 [00:05<00:45,{end}" for n in range(100))
    assert last_lines(f"Error: the cause\n{bars}\nbye") == "Error: the cause\nbye"


@pytest.mark.parametrize(
    "setting",
    [
        {"lease_seconds": "inf"},
        {"heartbeat_seconds": 500},
        {"database_url": "nonsense"},
        {"database_password": "pw"},
        {"broker_url": "redis://redis:6379/0", "broker_password": "pw"},
    ],
)
def test_settings_that_would_fail_later_are_refused_at_the_start(
    tmp_path: Path, setting: dict[str, object]
) -> None:
    with pytest.raises(InvalidSettings):
        load_settings(home=tmp_path, **setting)


def test_an_empty_variable_is_a_variable_that_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINLORA_ADAPTERS_DIR", "")
    assert load_settings(home=tmp_path).adapters == tmp_path / "lora_adaptors"
