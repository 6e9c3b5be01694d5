"""Is a folder a sound adapter? Reads bytes, one tensor at a time; no torch, runs no pickle."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from finlora_core.adapters.base import BaseModules, Shape
from finlora_core.adapters.manifest import CONFIG, PUBLISHED, WEIGHTS
from finlora_core.adapters.peft_config import PeftConfig, read_peft_config
from finlora_core.adapters.tensors import FLOATS, Tensor, pieces, read_header
from finlora_core.errors import InvalidAdapter
from finlora_core.runs.config import RunConfig

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
"""Weights in these can run code when they are loaded."""

A, B, MAGNITUDE, BIAS = "lora_A", "lora_B", "lora_magnitude_vector", "bias of lora_B"

KINDS: Mapping[str, str] = {
    "lora_A.weight": A,
    "lora_B.weight": B,
    "lora_B.bias": BIAS,
    "lora_embedding_A": A,
    "lora_embedding_B": B,
    "lora_magnitude_vector": MAGNITUDE,
    "lora_magnitude_vector.weight": MAGNITUDE,
}
"""How a tensor's name ends, as PEFT saves it."""

LORA = re.compile(rf"base_model\.model\.(.+)\.({'|'.join(map(re.escape, KINDS))})")
OTHER = re.compile(r"base_model\.model\.(.+?)(?:\.base_layer)?\.(weight|bias)")

_EMBEDDINGS = ("embed_tokens", "lm_head", "wte")
"""PEFT saves them whole where training has resized the vocabulary."""


def is_embedding(module: str) -> bool:
    """Of tokens, or what turns the last states back into them."""
    return module.rpartition(".")[2] in _EMBEDDINGS


@dataclass
class _Module:
    """One adapted module: its tensors by kind."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    is_embedding: bool = False

    @property
    def shape(self) -> Shape:
        """Of what it is added to: (out, in); of an embedding, (rows, width)."""
        out, into = self.tensors[B].shape[0], self.tensors[A].shape[1]
        return (into, out) if self.is_embedding else (out, into)


@dataclass(frozen=True, kw_only=True)
class Soundness:
    """What the checks have seen of an adapter that passed them."""

    peft: PeftConfig
    modules: int
    """How many are adapted."""
    changed: int
    """Of these, how many change what the base computes: B times A is not zero."""
    base_compared: bool
    """Whether names and shapes were compared with the base model's own files."""

    def facts(self, quant_bits: int | None) -> Mapping[str, Any]:
        """For the manifest. PEFT does not record the bits that the base was loaded in."""
        return {
            "rank": self.peft.rank,
            "alpha": self.peft.alpha,
            "quant_bits": quant_bits,
            "use_dora": self.peft.use_dora,
            "use_rslora": self.peft.use_rslora,
            "target_modules": sorted(self.peft.target_modules),
            "modules": self.modules,
            "changed": self.changed,
            "base_compared": self.base_compared,
        }


def check_folder(folder: Path) -> None:
    """Is it a folder that may be read at all? Raises `InvalidAdapter`."""
    if not folder.is_dir():
        raise InvalidAdapter(f"{CONFIG} is missing")
    for name in PUBLISHED:
        if (folder / name).is_symlink():
            raise InvalidAdapter(f"{name} is a symbolic link; an adapter is made of plain files")
    if not (folder / WEIGHTS).is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise InvalidAdapter(
                f"{pickles[0]} is a pickle, which can run code when it is loaded; "
                f"save the adapter as {WEIGHTS}"
            )


def check_adapter(folder: Path, config: RunConfig, base: BaseModules | None = None) -> Soundness:
    """Is it a sound adapter of the kind that a run asked for? Raises `InvalidAdapter`."""
    check_folder(folder)
    peft = read_peft_config(folder / CONFIG)
    _require_as_asked(peft, config)
    return _check_tensors(folder, peft, base)


def check_any_adapter(folder: Path, base: BaseModules | None = None) -> Soundness:
    """The same of one made elsewhere, by what its own config says. Raises `InvalidAdapter`."""
    check_folder(folder)
    return _check_tensors(folder, read_peft_config(folder / CONFIG), base)


def find_grown_embedding(folder: Path, base: BaseModules) -> Tensor | None:
    """One that was saved whole and is not of the base's size: training has added tokens.

    PEFT does not load it onto the base. Raises `InvalidAdapter`.
    """
    for module, tensor in _whole_embeddings(folder):
        shapes = base.find(module)
        if shapes and None not in shapes and tensor.shape not in shapes:
            return tensor
    return None


def changes_base(folder: Path) -> bool:
    """Whether embeddings were saved whole: PEFT loads them in the place of the base's own, and
    no other adapter is right on that base any more. Raises `InvalidAdapter`."""
    return any(True for _ in _whole_embeddings(folder))


def _whole_embeddings(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Module and tensor."""
    for tensor in read_header(folder / WEIGHTS):
        match = OTHER.fullmatch(tensor.name)
        if match and is_embedding(match[1]):
            yield match[1], tensor


def _require_as_asked(peft: PeftConfig, config: RunConfig) -> None:
    pairs = {
        "r": (peft.rank, config.lora_r),
        "lora_alpha": (peft.alpha, config.lora_alpha),
        "use_dora": (peft.use_dora, config.peft_use_dora),
        "use_rslora": (peft.use_rslora, config.peft_use_rslora),
        "rank_pattern": (dict(peft.rank_pattern), {}),
        "alpha_pattern": (dict(peft.alpha_pattern), {}),
    }
    for key, (found, wanted) in pairs.items():
        if found != wanted:
            raise InvalidAdapter(f"{CONFIG}: {key} is {found!r}, not {wanted!r}")


def _check_tensors(folder: Path, peft: PeftConfig, base: BaseModules | None) -> Soundness:
    """Without `base`, that the tensors fit the model goes unseen."""
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InvalidAdapter(f"{WEIGHTS} is missing")
    tensors = read_header(weights)
    modules = _modules(tensors, peft)
    _check_ranks(modules, peft)
    if base is not None:
        _check_base(modules, peft, base)
    changed = _check_values(weights, tensors, modules)
    return Soundness(
        peft=peft, modules=len(modules), changed=changed, base_compared=base is not None
    )


def _modules(tensors: Iterable[Tensor], peft: PeftConfig) -> Mapping[str, _Module]:
    """The adapted modules by name, each with all the tensors that it needs."""
    modules: dict[str, _Module] = {}
    for tensor in tensors:
        _require_floats(tensor)
        match = LORA.fullmatch(tensor.name)
        if match is None:
            _require_saved_whole(tensor, peft)
            continue
        module = modules.setdefault(match[1], _Module())
        module.is_embedding |= match[2].startswith("lora_embedding")
        if module.tensors.setdefault(KINDS[match[2]], tensor) is not tensor:
            raise InvalidAdapter(f"{WEIGHTS}: {match[1]} has two tensors of one kind")
    if not modules or any({A, B} - module.tensors.keys() for module in modules.values()):
        raise InvalidAdapter(f"{WEIGHTS}: lora_A and lora_B do not come in pairs")
    for name, module in modules.items():
        _require_kinds(name, module, peft)
    return modules


def _require_floats(tensor: Tensor) -> None:
    if tensor.dtype not in FLOATS:
        allowed = ", ".join(FLOATS)
        raise InvalidAdapter(f"{WEIGHTS}: {tensor.name} has dtype {tensor.dtype}, not {allowed}")
    if not tensor.shape or min(tensor.shape) < 1:
        raise InvalidAdapter(f"{WEIGHTS}: {tensor.name} has shape {tensor.shape}")


def _require_saved_whole(tensor: Tensor, peft: PeftConfig) -> None:
    """A tensor that is not LoRA's is one that adapter_config.json says was saved beside it."""
    match = OTHER.fullmatch(tensor.name)
    if match is not None:
        last = match[1].rpartition(".")[2]
        if match[2] == "bias" and peft.saves_bias:
            return
        if last in peft.modules_to_save or is_embedding(match[1]):
            return
    raise InvalidAdapter(f"{WEIGHTS}: {tensor.name} is no part of a LoRA adapter as PEFT saves it")


def _require_kinds(name: str, module: _Module, peft: PeftConfig) -> None:
    if not peft.targets(name):
        raise InvalidAdapter(f"{WEIGHTS}: {name} is not among the target_modules of {CONFIG}")
    for kind, key, wanted in (
        (MAGNITUDE, "use_dora", peft.use_dora),
        (BIAS, "lora_bias", peft.lora_bias),
    ):
        if wanted != (kind in module.tensors):
            has = "has no" if wanted else "has a"
            raise InvalidAdapter(f"{WEIGHTS}: {name} {has} {kind}, but {key} is {wanted}")


def _check_ranks(modules: Mapping[str, _Module], peft: PeftConfig) -> None:
    """A is (rank, in), B is (out, rank), magnitudes and biases are as long as B."""
    for name, module in modules.items():
        rank = peft.rank_of(name)
        for kind, axis in ((A, 0), (B, 1)):
            tensor = module.tensors[kind]
            if len(tensor.shape) != 2 or tensor.shape[axis] != rank:
                fault = f"has shape {tensor.shape}, not of rank {rank}"
                raise InvalidAdapter(f"{WEIGHTS}: {tensor.name} {fault}")
        for kind in (MAGNITUDE, BIAS):
            extra, out = module.tensors.get(kind), module.tensors[B].shape[0]
            if extra is not None and math.prod(extra.shape) != out:
                fault = f"has shape {extra.shape}, not of {out} outputs"
                raise InvalidAdapter(f"{WEIGHTS}: {extra.name} {fault}")


def _check_base(modules: Mapping[str, _Module], peft: PeftConfig, base: BaseModules) -> None:
    """Each module is one of the base's and fits it; none that is adapted has been left out."""
    for name, module in modules.items():
        shapes = base.find(name)
        if not shapes:
            raise InvalidAdapter(f"{WEIGHTS}: the base model has no module {name}")
        mine = module.shape[::-1] if peft.fan_in_fan_out else module.shape
        if None not in shapes and mine not in shapes:
            raise InvalidAdapter(
                f"{WEIGHTS}: {name} is for a module of shape {mine}, the base model's has "
                f"{shapes[0]}"
            )
    for name in base.beside(modules.keys()):
        if peft.targets(name) and name not in modules:
            raise InvalidAdapter(f"{WEIGHTS}: {name} is a target module and has no tensors")


def _check_values(weights: Path, tensors: Sequence[Tensor], modules: Mapping[str, _Module]) -> int:
    """Finite everywhere, and not without effect. How many modules have an effect."""
    live: dict[str, frozenset[int]] = {}
    axes = {
        module.tensors[kind].name: axis
        for module in modules.values()
        for kind, axis in ((A, 0), (B, 1))
    }
    with weights.open("rb") as file:
        for tensor in tensors:
            live[tensor.name] = _live_ranks(file, tensor, axes.get(tensor.name))
    if not any(live[module.tensors[B].name] for module in modules.values()):
        raise InvalidAdapter(f"{WEIGHTS}: every lora_B is zero, so it changes nothing")
    changed = sum(
        bool(live[module.tensors[A].name] & live[module.tensors[B].name])
        for module in modules.values()
    )
    if not changed:
        raise InvalidAdapter(f"{WEIGHTS}: lora_B times lora_A is zero, so it changes nothing")
    return changed


def _live_ranks(file: BinaryIO, tensor: Tensor, axis: int | None) -> frozenset[int]:
    """Of A its rows that are not zero, of B its columns: what they share has an effect."""
    found: set[int] = set()
    place = 0
    for values in pieces(file, tensor):
        if not np.isfinite(values).all():
            raise InvalidAdapter(f"{WEIGHTS}: {tensor.name} holds NaN or infinity")
        if axis is not None and len(found) < tensor.shape[axis]:
            indices, width = place + np.flatnonzero(values), tensor.shape[1]
            found.update(np.unique(indices // width if axis == 0 else indices % width).tolist())
        place += len(values)
    return frozenset(found)
