"""Read a dataset once: are all rows usable, how many are there, what is its hash."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from finlora_core.datasets.rows import fault_of, form_of
from finlora_core.errors import InvalidDataset
from finlora_core.runs.config import PromptFormat

MIN_ROWS = 2
"""One to train on, one to validate on."""

MAX_LINE_BYTES = 16 * 1024 * 1024
"""FinLoRA's longest rows are about 30 KB; this only stops a file without line breaks."""


@dataclass(frozen=True)
class DatasetFacts:
    rows: int
    sha256: str


def check_dataset(path: Path, form: PromptFormat, *, shown_as: str) -> DatasetFacts:
    """Rows and SHA-256 of the JSON-lines file at `path`.

    Raises `InvalidDataset`, naming the file as the user wrote it and the first bad line.
    """
    digest, rows = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file, shown_as), start=1):
                digest.update(line)
                if line.strip():
                    _check_row(line, form, f"{shown_as}, line {number}")
                    rows += 1
    except OSError as error:
        raise InvalidDataset(f"{shown_as} cannot be read: {error.strerror}") from error
    if rows < MIN_ROWS:
        raise InvalidDataset(
            f"{shown_as} has {rows} rows, at least {MIN_ROWS} are needed; "
            "write one JSON object a line"
        )
    return DatasetFacts(rows, digest.hexdigest())


def detect_form(path: Path) -> PromptFormat:
    """What its first row seems to be; whether it is, `check_dataset` says."""
    with path.open("rb") as file:
        for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
            if line.strip():
                return form_of(_load_or_none(line))
    return PromptFormat.INSTRUCTION


def _load_or_none(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _lines(file: BinaryIO, shown_as: str) -> Iterator[bytes]:
    """The lines of a file, none held in memory beyond MAX_LINE_BYTES."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InvalidDataset(f"{shown_as}, line {number}: longer than {MAX_LINE_BYTES} bytes")
        yield line


def _check_row(line: bytes, form: PromptFormat, where: str) -> None:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidDataset(f"{where}: not UTF-8 (byte {error.start + 1})") from None
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{where}: not JSON ({error})") from None
    fault = fault_of(row, form)
    if fault is not None:
        raise InvalidDataset(f"{where}: {fault}{_hint(row, form)}")


def _hint(row: object, form: PromptFormat) -> str:
    """The form that the row seems to have, should it be another one."""
    others = (other for other in PromptFormat if other is not form)
    seems = next((other for other in others if fault_of(row, other) is None), None)
    return f'; for rows like this set "prompt_format": "{seems}"' if seems else ""
