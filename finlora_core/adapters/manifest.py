"""Which files make up a published adapter, with the size and SHA-256 of each."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

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


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
