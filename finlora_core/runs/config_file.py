"""A file of run configs, as FinLoRA's finetune_configs.json: one JSON object, name -> config.

Read with the line of every key, so that a mistake is found where it was made.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finlora_core.datasets.locate import FINLORA_SCRIPT_DIR
from finlora_core.errors import InvalidConfigFile, UnknownName
from finlora_core.runs.config import RunRequest, explain
from finlora_core.suggest import suggest

FINLORA_DATA_DIR = "data"
"""Beside lora/ in a FinLoRA checkout."""

_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Member:
    """One key of a JSON object, its value, and the line that the key stands in."""

    key: str
    value: Any
    line: int
    members: Sequence["Member"]
    """Those of the value, when it is an object."""


@dataclass(frozen=True)
class NamedConfig:
    """A run config that can be posted, and the name it has in its file."""

    name: str
    written: Mapping[str, Any]
    """The config as it stands in the file."""

    @property
    def body(self) -> Mapping[str, Any]:
        """What POST /runs takes."""
        return {**self.written, "name": self.name}

    @property
    def request(self) -> RunRequest:
        return RunRequest.model_validate(self.body)


@dataclass(frozen=True)
class ConfigFile:
    path: Path
    runs: Sequence[Member]

    @property
    def names(self) -> Sequence[str]:
        return [run.key for run in self.runs]

    def choose(self, names: Sequence[str]) -> Sequence[NamedConfig]:
        """The named runs, each of which could be posted.

        Raises `UnknownName`, or `InvalidConfigFile` with every mistake in them.
        """
        runs = {run.key: run for run in self.runs}
        for name in names:
            if name not in runs:
                raise UnknownName(f"{self.path} has no run {name!r}; {suggest(name, runs)}")
        mistakes = [line for name in names for line in self._mistakes(runs[name])]
        if mistakes:
            raise InvalidConfigFile("\n".join(mistakes))
        return [NamedConfig(name, runs[name].value) for name in names]

    def _mistakes(self, run: Member) -> Iterator[str]:
        where = f"{self.path}, line {{line}}, run {run.key!r}"
        if not isinstance(run.value, dict):
            yield f"{where.format(line=run.line)}: must be an object, a run config"
            return
        for line, message in (*_repeated(run.members), *_wrong_keys(run)):
            yield f"{where.format(line=line)}: {message}"


def read_config_file(path: Path) -> ConfigFile:
    """Raises `InvalidConfigFile`, naming file, line and column."""
    text = _text(path)
    try:
        content = json.loads(text)
        runs = _members(text, content)
    except json.JSONDecodeError as error:
        place = f"{path}, line {error.lineno}, column {error.colno}"
        raise InvalidConfigFile(f"{place}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits
        raise InvalidConfigFile(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise InvalidConfigFile(f"{path}: must be an object of run name -> run config")
    if "base_model" in content:
        raise InvalidConfigFile(
            f'{path}: is one run config; put it under a name, as in {{"my_run": {{…}}}}'
        )
    repeated = [f"{path}, line {line}: {message}" for line, message in _repeated(runs)]
    if repeated:
        raise InvalidConfigFile("\n".join(repeated))
    return ConfigFile(path, runs)


def find_checkout(config_file: Path) -> Path | None:
    """The FinLoRA checkout that the file lies in: the nearest folder with lora/ and data/."""
    for folder in config_file.resolve().parents:
        if all((folder / name).is_dir() for name in (FINLORA_SCRIPT_DIR, FINLORA_DATA_DIR)):
            return folder
    return None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidConfigFile(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidConfigFile(f"{path}: not UTF-8 (byte {error.start + 1})") from None


def _repeated(members: Sequence[Member]) -> Iterator[tuple[int, str]]:
    first: dict[str, int] = {}
    for member in members:
        if member.key in first:
            yield member.line, f"{member.key!r} is there twice, first in line {first[member.key]}"
        first.setdefault(member.key, member.line)


def _wrong_keys(run: Member) -> Iterator[tuple[int, str]]:
    lines = {member.key: member.line for member in run.members}
    if "name" in run.value:
        yield lines["name"], "name: the run has its name already, in front of its config"
    try:
        RunRequest.model_validate({**run.value, "name": run.key})
    except ValidationError as error:
        for problem in explain(error.errors(), RunRequest.model_fields):
            line = lines.get(problem.key.split(".")[0], run.line)
            yield line, f"{problem.key}: {problem.message}" if problem.key else problem.message


def _members(text: str, content: Any) -> Sequence[Member]:
    """The members of the object `text`, which is known to be JSON, with those inside them."""
    return list(_scan(text, 0, 2)) if isinstance(content, dict) else []


def _scan(text: str, start: int, depth: int) -> Iterator[Member]:
    place = _skip(text, start, _SPACE) + 1  # behind the brace
    while text[place := _skip(text, place, _SPACE + ",")] != "}":
        line = text.count("\n", 0, place) + 1
        key, place = _DECODER.raw_decode(text, place)
        place = _skip(text, place, _SPACE + ":")
        value, end = _DECODER.raw_decode(text, place)
        inner = depth > 1 and isinstance(value, dict)
        yield Member(key, value, line, list(_scan(text, place, depth - 1)) if inner else [])
        place = end


def _skip(text: str, place: int, characters: str) -> int:
    while text[place] in characters:
        place += 1
    return place
