"""The base model on disk: which modules it has, of what shape, and which revision it is.

Reads headers and samples, so it is as quick for 70 billion parameters as for a million.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from finlora_core.adapters.manifest import CARD, sha256_of
from finlora_core.adapters.tensors import Tensor, read_header
from finlora_core.errors import InvalidAdapter

MODEL_CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"

HUB_METADATA = ".cache/huggingface/download/config.json.metadata"
"""What the hub's client leaves in a folder it has downloaded to; the first line is the commit."""

MAX_FRONT_MATTER = 16 * 1024
"""Characters of the model's README that are looked at."""

SAMPLES, SAMPLE_BYTES = 16, 64 * 1024

_PACKED = ("U8", "I32")
"""Quantised weights that were saved so: their shape is not (out, in)."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LAYER = re.compile(r"(?:^|\.)(\w+\.\d+\..+)$")

Shape = tuple[int, ...]


class BaseModules:
    """The modules that have weights, each with the shape of its `weight` where that is known."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._shapes = _shapes(tensors)
        self._by_tail: dict[str, list[Shape | None]] = {}
        for name, shape in self._shapes.items():
            self._by_tail.setdefault(_tail(name), []).append(shape)

    def find(self, module: str) -> Sequence[Shape | None]:
        """The shapes that a module of an adapter may have in the base; none if it has no such.

        Files and memory name the front of a path differently (`model.layers`,
        `language_model.model.layers`), so the part from the layer's number on decides.
        """
        if module in self._shapes:
            return [self._shapes[module]]
        if module.endswith("lm_head") and "lm_head" not in self._by_tail:
            return self._by_tail.get("embed_tokens", [])  # tied: one weight for both
        return self._by_tail.get(_tail(module), [])

    def beside(self, modules: Collection[str]) -> Iterator[str]:
        """What else the stacks of layers hold that these modules are in.

        Without the experts of a mixture: in memory they may be one tensor.
        """
        stacks = {_stack(module) for module in modules if module in self._shapes}
        for name in self._shapes:
            if _stack(name) in stacks and len(re.findall(r"\.\d+\.", name)) == 1:
                yield name


def read_modules(folder: Path) -> BaseModules | None:
    """None when the folder holds no safetensors. Raises `InvalidAdapter` for broken ones."""
    files = weight_files(folder)
    return BaseModules(tensor for file in files for tensor in read_header(file)) if files else None


def weight_files(folder: Path) -> Sequence[Path]:
    """The base's safetensors files, in the order of their names."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
        names = sorted(set(map(str, index["weight_map"].values())))
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise InvalidAdapter(f"the base model's {INDEX} cannot be read") from None
    absent = [name for name in names if "/" in name or not (folder / name).is_file()]
    if absent:
        raise InvalidAdapter(f"the base model's {INDEX} names {absent[0]!r}, which is not there")
    return [folder / name for name in names]


def describe(folder: Path) -> Mapping[str, str]:
    """For the manifest: which revision it is, and its licence where its files name one."""
    licence = _licence(folder)
    return {"base_revision": revision(folder), **({"base_license": licence} if licence else {})}


def revision(folder: Path) -> str:
    """The commit on the hub, where the folder knows it; else `sha256:` of what it holds.

    That is of config.json and of each weights file's name, size, header and 16 samples of
    64 KiB: enough to tell two fine-tunes apart without reading all their bytes.
    """
    return _commit(folder) or f"sha256:{_fingerprint(folder)}"


def _licence(folder: Path) -> str | None:
    """What the model's card says in its front matter."""
    try:
        with (folder / CARD).open(errors="replace") as file:
            lines = file.read(MAX_FRONT_MATTER).splitlines()
    except OSError:
        return None
    for line in takewhile(lambda line: line != "---", lines[1:] if lines[:1] == ["---"] else []):
        if match := re.fullmatch(r"license: *([A-Za-z0-9._-]{1,64}) *", line):
            return match[1]
    return None


def _commit(folder: Path) -> str | None:
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return folder.name
    try:
        first = (folder / HUB_METADATA).read_text(errors="replace").partition("\n")[0].strip()
    except OSError:
        return None
    return first if _COMMIT.fullmatch(first) else None


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256(sha256_of(folder / MODEL_CONFIG).encode())
    for file in weight_files(folder):
        digest.update(f"\n{file.name} {file.stat().st_size}\n".encode())
        for part in _samples(file):
            digest.update(part)
    return digest.hexdigest()


def _samples(file: Path) -> Iterator[bytes]:
    """The header, and pieces at even distances."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        yield opened.read(min(length, size))
        for number in range(SAMPLES):
            opened.seek(size * number // SAMPLES)
            yield opened.read(SAMPLE_BYTES)


def _shapes(tensors: Iterable[Tensor]) -> Mapping[str, Shape | None]:
    """`….q_proj` of `….q_proj.weight`; a bias or a packed weight still names its module."""
    shapes: dict[str, Shape | None] = {}
    for tensor in tensors:
        module, _, parameter = tensor.name.rpartition(".")
        if parameter == "weight" and tensor.dtype not in _PACKED:
            shapes[module] = tensor.shape
        else:
            shapes.setdefault(module, None)
    return shapes


def _stack(module: str) -> str:
    """`model.layers` of `model.layers.0.self_attn.q_proj`; empty for what is in no layer."""
    match = _LAYER.search(module)
    return module[: match.start(1)] + match[1].partition(".")[0] if match else ""


def _tail(module: str) -> str:
    """`layers.0.self_attn.q_proj`, whatever stands before it."""
    match = _LAYER.search(module)
    return match[1] if match else module.rpartition(".")[2]
