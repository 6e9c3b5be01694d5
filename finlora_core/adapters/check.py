"""Is what training left behind a sound adapter? Reads bytes; needs no torch, runs no pickle.

Format of a safetensors file: 8 bytes little-endian length, that much JSON naming each
tensor's dtype, shape and place, then the tensors without gaps.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finlora_core.adapters.manifest import CONFIG, WEIGHTS
from finlora_core.errors import InvalidAdapter
from finlora_core.runs.config import RunConfig

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself."""

DORA = "lora_magnitude_vector"

_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def check_adapter(folder: Path, config: RunConfig) -> None:
    """Raises `InvalidAdapter` with the reason when `folder` holds no adapter for `config`."""
    _check_peft_config(_read_json(folder / CONFIG), config)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InvalidAdapter(f"{WEIGHTS} is missing")
    tensors = list(_read_header(weights))
    _check_shapes(tensors, config)
    _check_values(weights, tensors)


def _check_peft_config(peft: Mapping[str, Any], config: RunConfig) -> None:
    wanted = {
        "peft_type": "LORA",
        "r": config.lora_r,
        "lora_alpha": config.lora_alpha,
        "use_dora": config.peft_use_dora,
        "use_rslora": config.peft_use_rslora,
    }
    for key, value in wanted.items():
        if peft.get(key) != value:
            raise InvalidAdapter(f"{CONFIG}: {key} is {peft.get(key)!r}, not {value!r}")


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidAdapter(f"{path.name} is missing") from None
    except (ValueError, RecursionError):
        raise InvalidAdapter(f"{path.name} is not JSON") from None
    if not isinstance(content, dict):
        raise InvalidAdapter(f"{path.name} is not a JSON object")
    return content


def _read_header(path: Path) -> Iterator[_Tensor]:
    """The tensors, in the order they lie in the file, each checked against its bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise InvalidAdapter(f"{WEIGHTS}: the header claims more than the file holds")
        tensors = _parse_header(file.read(length), 8 + length)
    place = 8 + length
    for tensor in tensors:
        if tensor.start != place:
            raise InvalidAdapter(f"{WEIGHTS}: {tensor.name} does not start where it should")
        place = tensor.end
        yield tensor
    if place != size:
        raise InvalidAdapter(f"{WEIGHTS}: {size - place:+d} bytes against what its header says")


def _parse_header(raw: bytes, base: int) -> list[_Tensor]:
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        tensors = [_tensor(name, entry, base) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidAdapter(f"{WEIGHTS}: the header cannot be read") from None
    if not tensors:
        raise InvalidAdapter(f"{WEIGHTS}: holds no tensors")
    return sorted(tensors, key=lambda tensor: tensor.start)


def _tensor(name: str, entry: Mapping[str, Any], base: int) -> _Tensor:
    start, end = _whole_numbers(entry["data_offsets"])
    shape = _whole_numbers(entry["shape"])
    tensor = _Tensor(name, entry["dtype"], shape, base + start, base + end)
    if tensor.dtype not in _BYTES:
        raise InvalidAdapter(f"{WEIGHTS}: {name} has dtype {tensor.dtype}")
    if min(tensor.shape, default=0) < 1 or end - start != _size(tensor):
        raise InvalidAdapter(f"{WEIGHTS}: {name} has a shape its bytes do not fill")
    return tensor


def _whole_numbers(values: Sequence[Any]) -> tuple[int, ...]:
    """JSON also knows 4.0, 1e999 and true, none of which is a size."""
    if not all(type(value) is int for value in values):
        raise ValueError("not a whole number")
    return tuple(values)


def _size(tensor: _Tensor) -> int:
    return math.prod(tensor.shape) * _BYTES[tensor.dtype]


def _check_shapes(tensors: list[_Tensor], config: RunConfig) -> None:
    """lora_A is (rank, in), lora_B is (out, rank); each has the other, DoRA a magnitude too."""
    rank = config.lora_r
    for tensor in tensors:
        axis = {"lora_A": 0, "lora_B": 1}.get(_kind(tensor.name))
        if axis is not None and (len(tensor.shape) != 2 or tensor.shape[axis] != rank):
            fault = f"has shape {tensor.shape}, not of rank {rank}"
            raise InvalidAdapter(f"{WEIGHTS}: {tensor.name} {fault}")
    adapted = {kind: _modules(tensors, kind) for kind in ("lora_A", "lora_B")}
    if not adapted["lora_A"] or adapted["lora_A"] != adapted["lora_B"]:
        raise InvalidAdapter(f"{WEIGHTS}: lora_A and lora_B do not come in pairs")
    if config.peft_use_dora and _modules(tensors, DORA) != adapted["lora_A"]:
        raise InvalidAdapter(f"{WEIGHTS}: a DoRA adapter needs a {DORA} for each lora_A")


def _check_values(path: Path, tensors: list[_Tensor]) -> None:
    """Finite everywhere, and B not zero everywhere: with B = 0 the adapter changes nothing."""
    changes = False
    for tensor in tensors:
        values = _load(path, tensor)
        if not np.isfinite(values).all():
            raise InvalidAdapter(f"{WEIGHTS}: {tensor.name} holds NaN or infinity")
        changes = changes or (_kind(tensor.name) == "lora_B" and bool(values.any()))
    if not changes:
        raise InvalidAdapter(f"{WEIGHTS}: every lora_B is zero, so it changes nothing")


def _load(path: Path, tensor: _Tensor) -> NDArray[np.float32] | NDArray[np.float16]:
    count = math.prod(tensor.shape)
    if tensor.dtype == "BF16":
        upper = np.fromfile(path, np.dtype("<u2"), count, offset=tensor.start)
        return (upper.astype(np.uint32) << 16).view(np.float32)  # bfloat16 is float32's upper half
    dtype = np.dtype("<f4" if tensor.dtype == "F32" else "<f2")
    return np.fromfile(path, dtype, count, offset=tensor.start)


def _modules(tensors: list[_Tensor], kind: str) -> set[str]:
    """The modules that have a tensor of this kind: `….q_proj` of `….q_proj.lora_A.weight`."""
    return {t.name.split(f".{kind}")[0] for t in tensors if _kind(t.name) == kind}


def _kind(name: str) -> str:
    """`lora_A` of `….q_proj.lora_A.weight`, `lora_magnitude_vector` with or without `.weight`."""
    return name.removesuffix(".weight").rsplit(".", 1)[-1]
