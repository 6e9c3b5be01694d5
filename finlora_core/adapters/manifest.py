"""manifest.json: which files make up a published adapter, and where it comes from.

Canonical JSON (sorted keys, no spaces, UTF-8, one newline at the end), so that it has one
SHA-256. It carries that of its own content without the key `manifest_sha256`; that of the
whole file stands in the adapter's row, where whoever changes files cannot change it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from finlora_core.errors import NotFound

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
CARD = "README.md"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)

PUBLISHED = (CONFIG, WEIGHTS, *TOKENIZER_FILES)
"""What is taken from Axolotl's output folder; checkpoints and pickles are left behind."""

SCHEMA_VERSION = 1
"""Of the manifest's keys. Manifests without it are older; their `files` mean the same."""

VERSION, SELF = "schema_version", "manifest_sha256"


class File(BaseModel):
    """One published file."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int = Field(description="Bytes.")
    sha256: str


def describe(folder: Path, names: Iterable[str]) -> Sequence[File]:
    """The named files of `folder` that exist, in order of their names."""
    present = sorted(name for name in names if (folder / name).is_file())
    return [
        File(path=name, size=(folder / name).stat().st_size, sha256=sha256_of(folder / name))
        for name in present
    ]


def get_file(listed: Iterable[Mapping[str, Any]], path: str) -> File:
    """Only what a row lists can be downloaded. Raises `NotFound`."""
    for file in listed:
        if file["path"] == path:
            return File.model_validate(file)
    raise NotFound("file", path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(
    folder: Path, facts: Mapping[str, Any], files: Sequence[File] | None = None
) -> None:
    """Written last: it describes every other file of the folder, the card included.

    `files` are those of a folder that is not an adapter's.
    """
    listed = describe(folder, (*PUBLISHED, CARD)) if files is None else files
    content = {VERSION: SCHEMA_VERSION, **facts, "files": [file.model_dump() for file in listed]}
    (folder / MANIFEST).write_bytes(canonical({**content, SELF: own_sha256(content)}))


def canonical(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


def own_sha256(content: Mapping[str, Any]) -> str:
    """What a manifest says of itself."""
    without = {key: value for key, value in content.items() if key != SELF}
    return hashlib.sha256(canonical(without)).hexdigest()
