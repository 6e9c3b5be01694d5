"""Sound adapters pass; every way of being unsound that we know of is refused, in words."""

import json
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from finlora_core.adapters.base import BaseModules, read_modules
from finlora_core.adapters.check import check_adapter, check_any_adapter
from finlora_core.adapters.manifest import CONFIG, WEIGHTS
from finlora_core.errors import InvalidAdapter
from finlora_core.runs.config import RunConfig

RANK = 4
RUN = RunConfig.model_validate(
    {"base_model": "org/tiny", "dataset_path": "x.jsonl", "lora_r": RANK, "lora_alpha": 16}
)
PEFT = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "use_dora": False, "use_rslora": False}

A = "base_model.model.layers.0.q_proj.lora_A.weight"
B = "base_model.model.layers.0.q_proj.lora_B.weight"
DORA = "base_model.model.layers.0.q_proj.lora_magnitude_vector"

Values = NDArray[np.float32]
Tensors = dict[str, Values]
Header = dict[str, dict[str, Any]]


def good() -> Tensors:
    return {A: np.full((RANK, 8), 0.5, np.float32), B: np.full((6, RANK), -0.25, np.float32)}


def raw(values: Values, dtype: str) -> bytes:
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def layout(tensors: Tensors, dtype: str = "F32") -> tuple[Header, bytes]:
    """The header and the data of a sound file."""
    header: Header = {}
    data = b""
    for name, values in tensors.items():
        part = raw(values, dtype)
        place = [len(data), len(data) + len(part)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": place}
        data += part
    return header, data


def pack(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors(tensors: Tensors, dtype: str = "F32") -> bytes:
    return pack(*layout(tensors, dtype))


def adapter(folder: Path, weights: bytes, peft: Mapping[str, object] = PEFT) -> Path:
    said = {"target_modules": ["q_proj", "a_proj", "v_proj"], **peft}
    (folder / CONFIG).write_text(json.dumps(said))
    (folder / WEIGHTS).write_bytes(weights)
    return folder


# ---- what passes


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_sound_adapter_passes(tmp_path: Path, dtype: str) -> None:
    check_adapter(adapter(tmp_path, safetensors(good(), dtype)), RUN)


def test_a_dora_adapter_has_a_third_kind_of_tensor(tmp_path: Path) -> None:
    tensors = good() | {DORA: np.ones((6,), np.float32)}
    run = RUN.model_copy(update={"peft_use_dora": True})
    check_adapter(adapter(tmp_path, safetensors(tensors), {**PEFT, "use_dora": True}), run)


def test_metadata_and_the_order_of_the_header_do_not_matter(tmp_path: Path) -> None:
    header, data = layout(good())
    shuffled = {"__metadata__": {"format": "pt"}, B: header[B], A: header[A]}
    check_adapter(adapter(tmp_path, pack(shuffled, data)), RUN)


def test_a_layer_whose_b_stayed_zero_is_fine_beside_one_that_learnt(tmp_path: Path) -> None:
    still = {name.replace("q_proj", "a_proj"): values * 0 for name, values in good().items()}
    check_adapter(adapter(tmp_path, safetensors(still | good())), RUN)
    check_adapter(adapter(tmp_path, safetensors(good() | still)), RUN)


# ---- what does not: adapter_config.json


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    (adapter(tmp_path, safetensors(good())) / missing).unlink()
    with pytest.raises(InvalidAdapter, match=f"^{missing} is missing$"):
        check_adapter(tmp_path, RUN)


def test_a_folder_that_is_not_there_holds_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter, match=f"^{CONFIG} is missing$"):
        check_adapter(tmp_path / "output", RUN)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 8),
        ("lora_alpha", 32),
        ("use_dora", True),
        ("use_rslora", True),
    ],
)
def test_an_adapter_of_another_kind_than_asked_for_is_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    adapter(tmp_path, safetensors(good()), {**PEFT, key: value})
    with pytest.raises(InvalidAdapter, match=f"^{CONFIG}: {key} is {value!r}, not {PEFT[key]!r}$"):
        check_adapter(tmp_path, RUN)


@pytest.mark.parametrize("key", ["peft_type", "r", "lora_alpha"])
def test_every_fact_about_the_kind_must_be_there(tmp_path: Path, key: str) -> None:
    adapter(tmp_path, safetensors(good()), {k: v for k, v in PEFT.items() if k != key})
    with pytest.raises(InvalidAdapter, match=f"{key} is None"):
        check_adapter(tmp_path, RUN)


REFUSED_KEYS: list[tuple[str, object]] = [
    ("peft_type", "LOHA"),
    ("peft_type", ["LORA"]),
    ("r", True),
    ("r", 4.0),
    ("r", 0),
    ("r", 10**9),
    ("lora_alpha", "16"),
    ("lora_alpha", float("nan")),
    ("lora_alpha", float("inf")),
    ("lora_alpha", -1),
    ("use_dora", "yes"),
    ("use_rslora", 1),
    ("bias", "some"),
    ("target_modules", []),
    ("target_modules", None),
    ("target_modules", "(.*)*q_proj"),
    ("target_modules", ["(.*)*q_proj"]),
    ("target_modules", [["q_proj"]]),
    ("rank_pattern", {"(a+)+$": 4}),
    ("rank_pattern", {"q_proj": "4"}),
    ("rank_pattern", ["q_proj"]),
    ("alpha_pattern", {"q_proj": None}),
    ("auto_mapping", {"base_model_class": "X", "parent_library": "transformers_modules.x"}),
    ("auto_mapping", "os"),
    ("megatron_config", {"tensor_model_parallel_size": 1}),
    ("layer_replication", [[0, 2]]),
    ("init_lora_weights", "pissa"),
    ("target_parameters", ["experts.gate_up_proj"]),
    ("base_model_name_or_path", ["x"]),
    ("base_model_name_or_path", "a\nb"),
    ("something_new", 1),
]


@pytest.mark.parametrize(("key", "value"), REFUSED_KEYS)
def test_what_a_peft_config_must_not_say_is_named(tmp_path: Path, key: str, value: object) -> None:
    """PEFT would import modules it names, run its patterns, or change the base model."""
    adapter(tmp_path, safetensors(good()), {**PEFT, key: value})
    with pytest.raises(InvalidAdapter, match=f"^{CONFIG}: .*{key}"):
        check_any_adapter(tmp_path)


def test_what_peft_itself_writes_passes(tmp_path: Path) -> None:
    written: dict[str, object] = {
        "alora_invocation_tokens": None, "alpha_pattern": {}, "auto_mapping": None,
        "base_model_name_or_path": "org/tiny", "bias": "none", "corda_config": None,
        "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None,
        "fan_in_fan_out": None, "inference_mode": True, "init_lora_weights": True,
        "loftq_config": {}, "lora_bias": False, "lora_dropout": 0.05, "megatron_config": None,
        "megatron_core": "megatron.core", "modules_to_save": None, "peft_version": "0.20.0",
        "qalora_group_size": 16, "rank_pattern": {}, "revision": None, "task_type": "CAUSAL_LM",
        "use_qalora": False, "use_bdlora": None,
    }  # fmt: skip
    check_adapter(adapter(tmp_path, safetensors(good()), {**written, **PEFT}), RUN)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b'{"r": 4', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
    ],
)
def test_an_unreadable_peft_config_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (adapter(tmp_path, safetensors(good())) / CONFIG).write_bytes(content)
    with pytest.raises(InvalidAdapter, match=f"^{CONFIG} {reason}$"):
        check_adapter(tmp_path, RUN)


# ---- what does not: adapter_model.safetensors

CLAIMS_TOO_MUCH = "the header claims more than the file holds"
UNREADABLE = "the header cannot be read"
UNFILLED = "has a shape its bytes do not fill"


def with_entry(name: str, **changed: object) -> bytes:
    """A sound file but for one tensor's entry in the header."""
    header, data = layout(good())
    header[name] = {**header[name], **changed}
    return pack(header, data)


def without_key(key: str) -> bytes:
    header, data = layout(good())
    del header[A][key]
    return pack(header, data)


def with_scalar() -> bytes:
    header, data = layout(good())
    place = [len(data), len(data) + 4]
    return pack(
        header | {"scale": {"dtype": "F32", "shape": [], "data_offsets": place}}, data + bytes(4)
    )


def with_a_repeated_key() -> bytes:
    header, data = layout(good())
    text = json.dumps(header)
    text = text[:-1] + "," + text[1:]
    return struct.pack("<Q", len(text)) + text.encode() + data


def with_nothing_in(name: str) -> bytes:
    tensors = good()
    tensors[name] = tensors[name][:0]
    return safetensors(tensors)


def moved(by: int, filler: bytes = b"") -> bytes:
    """A sound file but for where its second tensor starts."""
    header, data = layout(good())
    start, end = header[B]["data_offsets"]
    header[B]["data_offsets"] = [start + by, end + by]
    return pack(header, data[:start] + filler + data[start:])


def renamed(old: str, new: str) -> bytes:
    return safetensors({name.replace(old, new): values for name, values in good().items()})


def with_value(value: float, name: str, dtype: str = "F32") -> bytes:
    tensors = good()
    tensors[name][-1, -1] = value
    return safetensors(tensors, dtype)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty file": (lambda: b"", CLAIMS_TOO_MUCH),
    "half a length": (lambda: b"\0" * 7, CLAIMS_TOO_MUCH),
    "length without header": (lambda: struct.pack("<Q", 1), CLAIMS_TOO_MUCH),
    "header longer than the file": (
        lambda: struct.pack("<Q", 9999) + safetensors(good())[8:],
        CLAIMS_TOO_MUCH,
    ),
    "huge header": (
        lambda: struct.pack("<Q", 2**64 - 1) + safetensors(good())[8:],
        CLAIMS_TOO_MUCH,
    ),
    "no header": (lambda: struct.pack("<Q", 0), UNREADABLE),
    "header is no JSON": (lambda: struct.pack("<Q", 4) + b"\x80\x04K.", UNREADABLE),
    "header is no UTF-8": (lambda: struct.pack("<Q", 4) + b'{"\xff"', UNREADABLE),
    "header is a list": (lambda: pack([A, B], b""), UNREADABLE),
    "header is null": (lambda: pack(None, b""), UNREADABLE),
    "header is empty": (lambda: pack({}, b""), "holds no tensors"),
    "only metadata": (lambda: pack({"__metadata__": {}}, b""), "holds no tensors"),
    "entry is a list": (lambda: pack({A: []}, b""), UNREADABLE),
    "no dtype": (lambda: without_key("dtype"), UNREADABLE),
    "no shape": (lambda: without_key("shape"), UNREADABLE),
    "no offsets": (lambda: without_key("data_offsets"), UNREADABLE),
    "one offset": (lambda: with_entry(A, data_offsets=[0]), UNREADABLE),
    "three offsets": (lambda: with_entry(A, data_offsets=[0, 128, 256]), UNREADABLE),
    "words for offsets": (lambda: with_entry(A, data_offsets=["a", "b"]), UNREADABLE),
    "NaN for an offset": (lambda: with_entry(A, data_offsets=[0, float("nan")]), UNREADABLE),
    "a digit too many": (
        lambda: struct.pack("<Q", 5006) + b'{"a":' + b"1" * 5000 + b"}",
        UNREADABLE,
    ),
    "words for a shape": (lambda: with_entry(A, shape="ab"), UNREADABLE),
    "nested shape": (lambda: with_entry(A, shape=[[4, 8]]), UNREADABLE),
    "null for a shape": (lambda: with_entry(A, shape=None), UNREADABLE),
    "dtype is a list": (lambda: with_entry(A, dtype=["F32"]), UNREADABLE),
    "unsupported dtype": (lambda: with_entry(A, dtype="I32"), f"{A} has dtype I32"),
    "unknown dtype": (lambda: with_entry(A, dtype="X9"), f"{A} has dtype X9"),
    "double precision": (lambda: with_entry(A, dtype="F64", shape=[2, 8]), f"{A} has dtype F64"),
    "no shape at all": (lambda: with_entry(A, shape=[]), f"{A} {UNFILLED}"),
    "a scalar": (with_scalar, "scale has shape ()"),
    "negative shape": (lambda: with_entry(A, shape=[-4, -8]), f"{A} {UNFILLED}"),
    "zero in a shape": (
        lambda: with_nothing_in(A),
        f"{A} has shape (0, 8)",
    ),
    "shape too large": (lambda: with_entry(A, shape=[4, 9]), f"{A} {UNFILLED}"),
    "shape too small": (lambda: with_entry(A, shape=[4, 7]), f"{A} {UNFILLED}"),
    "astronomic shape": (lambda: with_entry(A, shape=[2**62, 2**62]), f"{A} {UNFILLED}"),
    "dtype of another width": (lambda: with_entry(A, dtype="BF16"), f"{A} {UNFILLED}"),
    "offsets swapped": (lambda: with_entry(A, data_offsets=[128, 0]), f"{A} {UNFILLED}"),
    "negative offsets": (
        lambda: with_entry(A, data_offsets=[-128, 0]),
        f"{A} has an impossible shape or place",
    ),
    "a shape of many dimensions": (
        lambda: with_entry(A, shape=[4, 8, 1, 1, 1, 1, 1, 1, 1]),
        f"{A} has an impossible shape or place",
    ),
    "a tensor that stands twice": (with_a_repeated_key, UNREADABLE),
    "a path for a name": (
        lambda: renamed("base_model", "../../base_model"),
        "no name of a tensor",
    ),
    "a NUL in a name": (lambda: renamed("base_model", "base\0model"), "no name of a tensor"),
    "a long name": (lambda: renamed("base_model", "x" * 5000 + "/"), "no name of a tensor"),
    "gap between tensors": (
        lambda: moved(4, b"\0" * 4),
        f"{B} does not start where it should",
    ),
    "overlapping tensors": (lambda: moved(-4), f"{B} does not start where it should"),
    "same place twice": (
        lambda: with_entry(A, shape=[RANK, 6], data_offsets=[128, 224]),
        "does not start where it should",
    ),
    "truncated data": (lambda: safetensors(good())[:-1], "-1 bytes against what its header says"),
    "trailing bytes": (
        lambda: safetensors(good()) + b"\0\0",
        "+2 bytes against what its header says",
    ),
    "wrong rank of A": (
        lambda: safetensors(good() | {A: np.ones((RANK + 1, 8), np.float32)}),
        f"{A} has shape ({RANK + 1}, 8), not of rank {RANK}",
    ),
    "wrong rank of B": (
        lambda: safetensors(good() | {B: np.ones((6, RANK - 1), np.float32)}),
        f"{B} has shape (6, {RANK - 1}), not of rank {RANK}",
    ),
    "A without B": (lambda: safetensors({A: good()[A]}), "do not come in pairs"),
    "B without A": (lambda: safetensors({B: good()[B]}), "do not come in pairs"),
    "A and B of different layers": (
        lambda: safetensors({A: good()[A], B.replace("q_proj", "v_proj"): good()[B]}),
        "do not come in pairs",
    ),
    "one A too many": (
        lambda: safetensors(good() | {A.replace("q_proj", "v_proj"): good()[A]}),
        "do not come in pairs",
    ),
    "neither A nor B": (lambda: renamed("lora_", "ia3_"), "no part of a LoRA adapter"),
    "names without dots": (lambda: renamed(".", "_"), "no part of a LoRA adapter"),
    "NaN in A": (lambda: with_value(float("nan"), A), f"{A} holds NaN or infinity"),
    "infinity in B": (lambda: with_value(float("-inf"), B), f"{B} holds NaN or infinity"),
    "NaN in float16": (lambda: with_value(float("nan"), B, "F16"), f"{B} holds NaN or infinity"),
    "infinity in bfloat16": (
        lambda: with_value(float("inf"), B, "BF16"),
        f"{B} holds NaN or infinity",
    ),
    "a magnitude that nobody asked for": (
        lambda: safetensors(good() | {DORA: np.ones((6,), np.float32)}),
        "has a lora_magnitude_vector, but use_dora is False",
    ),
    "the name of a model in memory": (
        lambda: renamed(".weight", ".default.weight"),
        "no part of a LoRA adapter",
    ),
    "no PEFT prefix": (lambda: renamed("base_model.model.", ""), "no part of a LoRA adapter"),
    "a module that is not targeted": (
        lambda: renamed("q_proj", "o_proj"),
        "layers.0.o_proj is not among the target_modules",
    ),
    "A is zero where B is not": (
        lambda: safetensors(good() | {A: np.zeros((RANK, 8), np.float32)}),
        "lora_B times lora_A is zero",
    ),
    "B is zero": (
        lambda: safetensors(good() | {B: np.zeros((6, RANK), np.float32)}),
        "every lora_B is zero",
    ),
    "B is minus zero in bfloat16": (
        lambda: safetensors(good() | {B: np.full((6, RANK), -0.0, np.float32)}, "BF16"),
        "every lora_B is zero",
    ),
}


@pytest.mark.parametrize(("make", "reason"), BAD.values(), ids=BAD.keys())
def test_unsound_weights_are_refused_and_the_reason_is_named(
    tmp_path: Path, make: Callable[[], bytes], reason: str
) -> None:
    with pytest.raises(InvalidAdapter) as caught:
        check_adapter(adapter(tmp_path, make()), RUN)
    assert str(caught.value).startswith(f"{WEIGHTS}: ")
    assert reason in str(caught.value)


def test_a_pickle_in_the_place_of_the_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter, match=WEIGHTS):
        check_adapter(adapter(tmp_path, b"\x80\x04\x95" + b"cos\nsystem\n" * 20), RUN)


def test_a_header_beyond_the_formats_limit_is_not_even_read(tmp_path: Path) -> None:
    length = 100_000_001
    adapter(tmp_path, struct.pack("<Q", length))
    with (tmp_path / WEIGHTS).open("r+b") as file:
        file.truncate(8 + length)  # sparse: it takes no room on the disk
    with pytest.raises(InvalidAdapter, match="a header of 100000001 bytes is too large"):
        check_adapter(tmp_path, RUN)


def test_a_header_with_flipped_bytes_is_never_more_than_refused(tmp_path: Path) -> None:
    whole = safetensors(good())
    header = len(whole) - len(layout(good())[1])
    rng = random.Random(7)  # noqa: S311  # the same flips each time
    refused = 0
    for _ in range(600):
        flipped = bytearray(whole)
        for place in rng.sample(range(header), rng.randint(1, 3)):
            flipped[place] = rng.choice(b'\0\xff0123456789-.eE[]{}",:' + bytes([whole[place] ^ 1]))
        try:
            check_adapter(adapter(tmp_path, bytes(flipped)), RUN)
        except InvalidAdapter:
            refused += 1
    assert refused > 500


def test_a_dora_magnitude_is_checked_too(tmp_path: Path) -> None:
    run = RUN.model_copy(update={"peft_use_dora": True})
    said = {**PEFT, "use_dora": True}
    for magnitude, reason in (
        (np.full((6,), np.nan, np.float32), "holds NaN or infinity"),
        (np.ones((7,), np.float32), "not of 6 outputs"),
    ):
        with pytest.raises(InvalidAdapter, match=reason):
            check_adapter(adapter(tmp_path, safetensors(good() | {DORA: magnitude}), said), run)


# ---- ranks that differ by module


def test_a_module_may_have_a_rank_of_its_own(tmp_path: Path) -> None:
    wide = {
        name.replace("q_proj", "v_proj"): np.ones_like(values).repeat(2, axis=1 - axis)
        for axis, (name, values) in zip((1, 0), good().items(), strict=True)
    }
    said = {**PEFT, "rank_pattern": {"v_proj": 2 * RANK}}
    sound = check_any_adapter(adapter(tmp_path, safetensors(good() | wide), said))
    assert (sound.modules, sound.changed) == (2, 2)
    for pattern in ({}, {"v_proj": RANK}, {"^v_proj": 2 * RANK}, {"k_proj": 2 * RANK}):
        adapter(tmp_path, safetensors(good() | wide), {**PEFT, "rank_pattern": pattern})
        with pytest.raises(InvalidAdapter, match=f"not of rank {RANK}"):
            check_any_adapter(tmp_path)


def test_how_many_modules_change_anything_is_counted(tmp_path: Path) -> None:
    crossed = {A.replace("q_", "v_"): good()[A], B.replace("q_", "v_"): good()[B]}
    crossed[A.replace("q_", "v_")][1:] = 0  # only the first rank has rows in A,
    crossed[B.replace("q_", "v_")][:, 0] = 0  # and only the others have columns in B
    sound = check_any_adapter(adapter(tmp_path, safetensors(good() | crossed)))
    assert (sound.modules, sound.changed) == (2, 1)


def test_tensors_larger_than_a_piece_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finlora_core.adapters.tensors.CHUNK", 5)
    assert check_any_adapter(adapter(tmp_path, safetensors(good(), "BF16"))).changed == 1
    for name in (A, B):
        with pytest.raises(InvalidAdapter, match="NaN"):
            check_any_adapter(adapter(tmp_path, with_value(float("nan"), name, "F16")))


# ---- the base model


def base_of(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "F16"
) -> BaseModules:
    folder.mkdir(exist_ok=True)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    (folder / "model.safetensors").write_bytes(safetensors(tensors, dtype))
    modules = read_modules(folder)
    assert modules is not None
    return modules


LLAMA = {"layers.0.q_proj.weight": (6, 8), "layers.0.norm.weight": (8,)}

FITS: dict[str, Mapping[str, tuple[int, ...]]] = {
    "Llama": LLAMA,
    "Qwen, with biases": {**LLAMA, "layers.0.q_proj.bias": (6,)},
    "another front, as of a model with pictures": {
        "language_model.layers.0.q_proj.weight": (6, 8),
        "vision.layers.0.q_proj.weight": (3, 3),
    },
    "more experts than the adapter knows": {
        **LLAMA,
        "layers.0.experts.0.v_proj.weight": (6, 8),
    },
}


@pytest.mark.parametrize("shapes", FITS.values(), ids=FITS)
def test_an_adapter_that_fits_its_base_passes(
    tmp_path: Path, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    base = base_of(tmp_path / "base", shapes)
    assert check_adapter(adapter(tmp_path, safetensors(good())), RUN, base).base_compared


def test_fused_layers_are_modules_like_others(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", {"layers.0.qkv_proj.weight": (6, 8)})
    said = {**PEFT, "target_modules": ["qkv_proj"]}
    assert check_adapter(adapter(tmp_path, renamed("q_proj", "qkv_proj"), said), RUN, base)


def test_a_base_that_was_saved_in_four_bits_still_names_its_modules(tmp_path: Path) -> None:
    header = {"layers.0.q_proj.weight": {"dtype": "U8", "shape": [24, 1], "data_offsets": [0, 24]}}
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(pack(header, bytes(24)))
    assert check_adapter(adapter(tmp_path, safetensors(good())), RUN, read_modules(folder))


FOREIGN: dict[str, tuple[Mapping[str, tuple[int, ...]], str]] = {
    "no such module": ({"layers.0.wq.weight": (6, 8)}, "the base model has no module layers.0.q"),
    "no such layer": ({"layers.1.q_proj.weight": (6, 8)}, "has no module layers.0.q_proj"),
    "wider": ({"layers.0.q_proj.weight": (6, 16)}, r"of shape \(6, 8\), .* has \(6, 16\)"),
    "turned": ({"layers.0.q_proj.weight": (8, 6)}, r"of shape \(6, 8\), .* has \(8, 6\)"),
    "deeper": (
        {**LLAMA, "layers.1.q_proj.weight": (6, 8)},
        "layers.1.q_proj is a target module and has no tensors",
    ),
}


@pytest.mark.parametrize(("shapes", "reason"), FOREIGN.values(), ids=FOREIGN)
def test_an_adapter_of_a_foreign_base_is_refused(
    tmp_path: Path, shapes: Mapping[str, tuple[int, ...]], reason: str
) -> None:
    base = base_of(tmp_path / "base", shapes)
    with pytest.raises(InvalidAdapter, match=reason):
        check_adapter(adapter(tmp_path, safetensors(good())), RUN, base)


def test_a_tied_head_is_as_large_as_the_embeddings(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", {"model.embed_tokens.weight": (6, 8)})
    said = {**PEFT, "target_modules": ["lm_head"]}
    head = {name.replace("layers.0.q_proj", "lm_head"): it for name, it in good().items()}
    assert check_adapter(adapter(tmp_path, safetensors(head), said), RUN, base)


def test_an_embeddings_adapter_lies_the_other_way_round(tmp_path: Path) -> None:
    place = "base_model.model.model.embed_tokens"
    tensors = {
        f"{place}.lora_embedding_A": np.ones((RANK, 10), np.float32),
        f"{place}.lora_embedding_B": np.ones((8, RANK), np.float32),
        f"{place}.weight": np.ones((10, 8), np.float32),
    }
    said = {**PEFT, "target_modules": ["embed_tokens"]}
    fitting = base_of(tmp_path / "base", {"model.embed_tokens.weight": (10, 8)})
    assert check_adapter(adapter(tmp_path, safetensors(tensors), said), RUN, fitting)
    turned = base_of(tmp_path / "base", {"model.embed_tokens.weight": (8, 10)})
    with pytest.raises(InvalidAdapter, match="for a module of shape"):
        check_adapter(tmp_path, RUN, turned)


def test_a_base_in_several_files_is_read_whole(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    base_of(folder, {"layers.0.q_proj.weight": (6, 8)})
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    base_of(folder, {"layers.1.q_proj.weight": (6, 8)})
    (folder / "model.safetensors").rename(folder / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidAdapter, match="is a target module and has no tensors"):
        check_adapter(adapter(tmp_path, safetensors(good())), RUN, read_modules(folder))
    index["weight_map"]["c"] = "../one.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidAdapter, match=r"names '../one.safetensors', which is not there"):
        read_modules(folder)


def test_a_base_without_safetensors_cannot_be_compared(tmp_path: Path) -> None:
    assert read_modules(tmp_path) is None
    assert not check_adapter(adapter(tmp_path, safetensors(good())), RUN).base_compared
