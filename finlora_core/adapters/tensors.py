"""Read a safetensors file without trusting it: the header, then tensor by tensor.

The format: 8 bytes little-endian length, that much JSON naming each tensor's dtype, shape
and place, then the tensors without gaps.
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from finlora_core.errors import InvalidAdapter
from finlora_core.strict_json import parse

MAX_HEADER_BYTES = 16 * 1024 * 1024
"""The format allows 100 MB; an adapter of every layer of the largest models takes 5."""

MAX_DIMENSIONS = 8

CHUNK = 4 * 1024 * 1024
"""Values looked at in one piece: what a tensor of any size takes of memory."""

_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8,
}  # fmt: skip

FLOATS = ("F32", "F16", "BF16")

_NAME = re.compile(r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*", re.ASCII)
"""What modules and parameters are called, joined by dots."""


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Of its bytes, counted from the start of the file."""
    end: int


def read_header(path: Path) -> Sequence[Tensor]:
    """The tensors in the order they lie in the file, each checked against its bytes.

    Raises `InvalidAdapter` with the reason.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > size - 8:
            raise InvalidAdapter(f"{path.name}: the header claims more than the file holds")
        if length > MAX_HEADER_BYTES:
            raise InvalidAdapter(f"{path.name}: a header of {length} bytes is too large")
        tensors = _parse(path.name, file.read(length), 8 + length)
    _require_no_gaps(path.name, tensors, 8 + length, size)
    return tensors


def pieces(file: BinaryIO, tensor: Tensor) -> Iterator[NDArray[np.float32 | np.float16]]:
    """The values of a tensor of FLOATS, some at a time."""
    file.seek(tensor.start)
    left = math.prod(tensor.shape)
    while left > 0:
        count = min(left, CHUNK)
        yield _values(file.read(count * _BITS[tensor.dtype] // 8), tensor.dtype)
        left -= count


def _values(raw: bytes, dtype: str) -> NDArray[np.float32 | np.float16]:
    if dtype == "BF16":
        upper = np.frombuffer(raw, np.dtype("<u2"))
        return (upper.astype(np.uint32) << 16).view(np.float32)  # bfloat16 is float32's upper half
    return np.frombuffer(raw, np.dtype("<f4" if dtype == "F32" else "<f2"))


def _require_no_gaps(file: str, tensors: Sequence[Tensor], begin: int, size: int) -> None:
    place = begin
    for tensor in tensors:
        if tensor.start != place:
            raise InvalidAdapter(f"{file}: {tensor.name} does not start where it should")
        place = tensor.end
    if place != size:
        raise InvalidAdapter(f"{file}: {size - place:+d} bytes against what its header says")


def _parse(file: str, raw: bytes, base: int) -> list[Tensor]:
    try:
        entries = parse(raw)
        entries.pop("__metadata__", None)
        tensors = [_tensor(file, name, entry, base) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidAdapter(f"{file}: the header cannot be read") from None
    if not tensors:
        raise InvalidAdapter(f"{file}: holds no tensors")
    return sorted(tensors, key=lambda tensor: tensor.start)


def _tensor(file: str, name: str, entry: Mapping[str, Any], base: int) -> Tensor:
    if not _NAME.fullmatch(name):
        raise InvalidAdapter(f"{file}: {name[:60]!r} is no name of a tensor")
    start, end = _whole_numbers(entry["data_offsets"])
    tensor = Tensor(name, entry["dtype"], _whole_numbers(entry["shape"]), base + start, base + end)
    if len(tensor.shape) > MAX_DIMENSIONS or start < 0:
        raise InvalidAdapter(f"{file}: {name} has an impossible shape or place")
    bits = _BITS.get(tensor.dtype)
    if bits is not None and not _fills(tensor, bits):
        raise InvalidAdapter(f"{file}: {name} has a shape its bytes do not fill")
    return tensor


def _fills(tensor: Tensor, bits: int) -> bool:
    if min(tensor.shape, default=1) < 0:
        return False
    return (tensor.end - tensor.start) * 8 == math.prod(tensor.shape) * bits


def _whole_numbers(values: Sequence[Any]) -> tuple[int, ...]:
    """JSON also knows 4.0, 1e999 and true, none of which is a size."""
    if not all(type(value) is int for value in values):
        raise ValueError("not a whole number")
    return tuple(values)
