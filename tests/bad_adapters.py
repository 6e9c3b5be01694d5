"""A seeded corpus of adapters that must be refused: what is wrong with each, and the reason."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finlora_core.adapters.manifest import CONFIG, MANIFEST, WEIGHTS

RANK, WIDTH = 4, 16
BASE, VARIANT, NAME = "org/tiny", f"8bits_r{RANK}", "sentiment"
MODULES = tuple(f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in ("q", "v"))
PREFIX = "base_model.model"

Values = NDArray[np.float32]


@dataclass
class Parts:
    """An adapter in pieces, each of which can be spoilt."""

    tensors: dict[str, Values]
    config: dict[str, Any]
    dtype: str = "F32"
    header: dict[str, Any] = field(default_factory=dict)
    """Entries that replace those of the same name."""

    def weights(self) -> bytes:
        header: dict[str, Any] = {}
        data = b""
        for name, values in self.tensors.items():
            raw = values.astype({"F32": "<f4", "F16": "<f2", "I32": "<i4"}[self.dtype]).tobytes()
            place = [len(data), len(data) + len(raw)]
            header[name] = {
                "dtype": self.dtype,
                "shape": list(values.shape),
                "data_offsets": place,
            }
            data += raw
        return pack({**header, **self.header}, data)


def pack(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def good(seed: int = 7) -> Parts:
    """A sound adapter of random numbers."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for module in MODULES:
        tensors[f"{PREFIX}.{module}.lora_A.weight"] = rng.normal(size=(RANK, WIDTH))
        tensors[f"{PREFIX}.{module}.lora_B.weight"] = rng.normal(size=(WIDTH, RANK))
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": 16, "use_dora": False, "use_rslora": False,
        "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": BASE, "bias": "none",
        "rank_pattern": {}, "modules_to_save": None, "task_type": "CAUSAL_LM",
    }  # fmt: skip
    return Parts({name: it.astype(np.float32) for name, it in tensors.items()}, config)


def write(folder: Path, parts: Parts) -> Path:
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(parts.config))
    (folder / WEIGHTS).write_bytes(parts.weights())
    (folder / "tokenizer.json").write_text("{}")
    return folder


def write_base(models: Path) -> Path:
    """The model that the adapters of the corpus are for."""
    folder = models / BASE
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    shapes = {f"{module}.weight": (WIDTH, WIDTH) for module in MODULES}
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    (folder / "model.safetensors").write_bytes(Parts(tensors, {}, "F16").weights())
    return folder


A = f"{PREFIX}.{MODULES[0]}.lora_A.weight"
B = f"{PREFIX}.{MODULES[0]}.lora_B.weight"


def _tensors(change: Callable[[dict[str, Values]], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        parts = good()
        change(parts.tensors)
        write(folder, parts)

    return make


def _config(**keys: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        parts = good()
        parts.config |= keys
        write(folder, parts)

    return make


def _weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = write(folder, good()) / WEIGHTS
        path.write_bytes(change(path.read_bytes()))

    return make


def _header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(whole: bytes) -> bytes:
        header, data = _split(whole)
        change(header)
        return pack(header, data)

    return _weights(spoil)


def _split(whole: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", whole[:8])[0]
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def _file(name: str, content: bytes | None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = write(folder, good()) / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)

    return make


def _pickle(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (write(folder, good()) / WEIGHTS).rename(folder / name)

    return make


def _link(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = write(folder, good()) / name
        elsewhere = folder.parent.parent / f"elsewhere_{name}"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)

    return make


def _renamed(old: str, new: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        parts = good()
        parts.tensors = {name.replace(old, new): it for name, it in parts.tensors.items()}
        write(folder, parts)

    return make


def _of_width(width: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        parts = good()
        for name, it in parts.tensors.items():
            parts.tensors[name] = np.resize(it, (RANK, width) if "_A" in name else (width, RANK))
        write(folder, parts)

    return make


def _of_integers(folder: Path) -> None:
    parts = good()
    parts.dtype = "I32"
    write(folder, parts)


def _repeated(whole: bytes) -> bytes:
    header, data = _split(whole)
    text = json.dumps(header)
    return pack((text[:-1] + "," + text[1:]).encode(), data)


def _moved(by: int) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header[B]["data_offsets"] = [place + by for place in header[B]["data_offsets"]]

    return change


def _spoilt(name: str, value: float) -> Callable[[Path], None]:
    return _tensors(lambda tensors: tensors[name].__setitem__((1, 1), value))


def _changed_manifest(folder: Path) -> None:
    """One that a service has put there once, before somebody changed the weights."""
    from finlora_core.adapters.manifest import write_manifest

    write(folder, good())
    write_manifest(folder, {"adapter_id": "adp_1"})
    (folder / WEIGHTS).write_bytes(good(seed=8).weights())


CORPUS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "pickle weights": (_pickle("adapter_model.bin"), "adapter_model.bin is a pickle"),
    "torch weights": (_pickle("adapter_model.pt"), "adapter_model.pt is a pickle"),
    "a checkpoint for weights": (_pickle("model.ckpt"), "model.ckpt is a pickle"),
    "a pickle named safetensors": (
        _file(WEIGHTS, b"\x80\x04\x95" + b"cposix\nsystem\n" * 9),
        "the header claims more than the file holds",
    ),
    "no weights": (_file(WEIGHTS, None), f"{WEIGHTS} is missing"),
    "empty weights": (_file(WEIGHTS, b""), "the header claims more than the file holds"),
    "no config": (_file(CONFIG, None), f"{CONFIG} is missing"),
    "empty config": (_file(CONFIG, b""), f"{CONFIG} is not JSON"),
    "config not JSON": (_file(CONFIG, b"{r: 4}"), f"{CONFIG} is not JSON"),
    "config not UTF-8": (_file(CONFIG, b'{"r": "\xff"}'), f"{CONFIG} is not JSON"),
    "config a list": (_file(CONFIG, b"[4]"), f"{CONFIG} is not a JSON object"),
    "config with a key twice": (_file(CONFIG, b'{"r": 4, "r": 8}'), f"{CONFIG} is not JSON"),
    "config of LoHa": (_config(peft_type="LOHA"), "peft_type is 'LOHA', not 'LORA'"),
    "config with a pattern": (_config(target_modules=".*"), "must be a list of modules' names"),
    "config that imports": (
        _config(auto_mapping={"base_model_class": "M", "parent_library": "evil"}),
        "auto_mapping names 'evil', not transformers",
    ),
    "config that changes the base": (
        _config(init_lora_weights="pissa"),
        "'init_lora_weights' is set, which is not supported here",
    ),
    "config without a base": (
        _config(base_model_name_or_path=None),
        "does not name its base model",
    ),
    "foreign rank in the config": (_config(r=8), "not of rank 8"),
    "foreign rank in the tensors": (
        _tensors(lambda tensors: tensors.update({A: np.ones((8, WIDTH), np.float32)})),
        "has shape (8, 16), not of rank 4",
    ),
    "foreign rank by pattern": (_config(rank_pattern={"q_proj": 2}), "not of rank 2"),
    "foreign base, other names": (
        _renamed("model.layers", "model.blocks"),
        "the base model has no module model.blocks.0.self_attn.q_proj",
    ),
    "foreign base, more layers": (
        _renamed("layers.1", "layers.9"),
        "the base model has no module model.layers.9.self_attn.q_proj",
    ),
    "foreign base, other width": (
        _of_width(32),
        "for a module of shape (32, 32), the base model's has (16, 16)",
    ),
    "half of its layers": (
        _tensors(lambda ts: [ts.pop(name) for name in list(ts) if "layers.1" in name]),
        "model.layers.1.self_attn.q_proj is a target module and has no tensors",
    ),
    "truncated by a byte": (_weights(lambda whole: whole[:-1]), "-1 bytes against"),
    "truncated by half": (_weights(lambda whole: whole[: len(whole) // 2]), "bytes against"),
    "truncated in the header": (_weights(lambda whole: whole[:99]), "the header claims more"),
    "bytes behind the end": (_weights(lambda whole: whole + b"\0\0"), "+2 bytes against"),
    "header longer than the file": (
        _weights(lambda whole: struct.pack("<Q", len(whole)) + whole[8:]),
        "the header claims more than the file holds",
    ),
    "header of 16 EiB": (
        _weights(lambda whole: b"\xff" * 8 + whole[8:]),
        "the header claims more than the file holds",
    ),
    "header of 17 MiB": (
        _file(WEIGHTS, struct.pack("<Q", 17 << 20) + bytes(17 << 20)),
        "is too large",
    ),
    "header with a key twice": (_weights(_repeated), "the header cannot be read"),
    "header nested too deep": (
        _file(WEIGHTS, pack(b'{"a":' * 50_000, b"")),
        "the header cannot be read",
    ),
    "gap": (_header(_moved(64)), "does not start where it should"),
    "overlap": (_header(_moved(-64)), "does not start where it should"),
    "negative offsets": (_header(_moved(-4096)), "has an impossible shape or place"),
    "shape too large": (
        _header(lambda header: header[A].update(shape=[RANK, 2 * WIDTH])),
        "has a shape its bytes do not fill",
    ),
    "shape that overflows": (
        _header(lambda header: header[A].update(shape=[2**32, 2**32])),
        "has a shape its bytes do not fill",
    ),
    "wrong dtype": (_of_integers, "has dtype I32, not F32, F16, BF16"),
    "unknown dtype": (
        _header(lambda header: header[A].update(dtype="../../x")),
        "has dtype ../../x, not F32, F16, BF16",
    ),
    "NaN": (_spoilt(A, float("nan")), "holds NaN or infinity"),
    "infinity": (_spoilt(B, float("inf")), "holds NaN or infinity"),
    "minus infinity": (_spoilt(B, float("-inf")), "holds NaN or infinity"),
    "all-zero B": (
        _tensors(lambda ts: ts.update({n: 0 * it for n, it in ts.items() if "_B" in n})),
        "every lora_B is zero, so it changes nothing",
    ),
    "all-zero A": (
        _tensors(lambda ts: ts.update({n: 0 * it for n, it in ts.items() if "_A" in n})),
        "lora_B times lora_A is zero, so it changes nothing",
    ),
    "A without B": (_tensors(lambda ts: ts.pop(B)), "do not come in pairs"),
    "B without A": (_tensors(lambda ts: ts.pop(A)), "do not come in pairs"),
    "DoRA without magnitudes": (
        _config(use_dora=True),
        "has no lora_magnitude_vector, but use_dora is True",
    ),
    "a tensor that is none of LoRA's": (
        _tensors(
            lambda ts: ts.update({f"{PREFIX}.model.norm.weight": np.ones(WIDTH, np.float32)})
        ),
        "is no part of a LoRA adapter as PEFT saves it",
    ),
    "a path for a tensor's name": (_renamed(PREFIX, "../../etc"), "is no name of a tensor"),
    "a link for weights": (_link(WEIGHTS), f"{WEIGHTS} is a symbolic link"),
    "a link for a config": (_link(CONFIG), f"{CONFIG} is a symbolic link"),
    "a link for a tokenizer": (_link("tokenizer.json"), "tokenizer.json is a symbolic link"),
    "weights changed since they were published": (
        _changed_manifest,
        f"it is not what its {MANIFEST} says: {WEIGHTS}: has SHA-256",
    ),
}


def write_corpus(tree: Path) -> Iterator[tuple[str, Path]]:
    """Every one of them in a FinLoRA tree, in a folder named after what is wrong with it."""
    for what, (make, _) in CORPUS.items():
        folder = tree / VARIANT / "".join(c if c.isalnum() else "_" for c in what)
        make(folder)
        yield what, folder
