"""adapter_config.json: PEFT's description of an adapter, as far as it may go.

Some of PEFT's keys import modules by name or change the base model while loading. So what is
not known here must be unset.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finlora_core.adapters.manifest import CONFIG
from finlora_core.errors import InvalidAdapter
from finlora_core.runs.config import variant_name
from finlora_core.strict_json import parse

MAX_BYTES = 1024 * 1024
MAX_RANK = 1024
"""As in a run config."""

_SAY_NOTHING = frozenset(
    {
        "base_model_name_or_path", "inference_mode", "loftq_config", "lora_dropout",
        "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
        "task_type",
    }
)  # fmt: skip
"""Keys whose value changes neither what the adapter computes nor how it is loaded."""

_HARMLESS: Mapping[str, tuple[object, ...]] = {"init_lora_weights": (True, "gaussian")}
"""What may be set because the weights are loaded over it; PiSSA and others change the base."""

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", re.ASCII)
_PATTERN = re.compile(r"\^?[A-Za-z0-9_]+(\\?\.[A-Za-z0-9_]+)*\$?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """What the tensors must agree with."""

    base_model: str | None
    """As its maker wrote it: a name on the hub, or a folder on some machine."""
    rank: int
    alpha: float
    use_dora: bool
    use_rslora: bool
    target_modules: frozenset[str]
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    modules_to_save: frozenset[str] = frozenset()
    saves_bias: bool = False
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    """The base keeps these weights as (in, out), as GPT-2 does."""

    def rank_of(self, module: str) -> int:
        """PEFT's rule: the first key that is the module's name, or the end of it."""
        for key, rank in self.rank_pattern.items():
            if _is_named(module, key):
                return rank
        return self.rank

    def targets(self, module: str) -> bool:
        return any(_is_named(module, target) for target in self.target_modules)

    def variant(self, quant_bits: int | None) -> str:
        """PEFT does not record the bits that the base was loaded in."""
        return variant_name(quant_bits, self.rank, dora=self.use_dora, rslora=self.use_rslora)


def read_peft_config(path: Path) -> PeftConfig:
    """Raises `InvalidAdapter`, naming the key."""
    content = _read(path)
    kind = content.get("peft_type")
    if kind != "LORA":
        raise InvalidAdapter(f"{CONFIG}: peft_type is {_shown(kind)}, not 'LORA'")
    config = PeftConfig(
        base_model=_base_model(content),
        rank=_rank(content.get("r"), "r"),
        alpha=_alpha(content.get("lora_alpha"), "lora_alpha"),
        use_dora=_flag(content, "use_dora"),
        use_rslora=_flag(content, "use_rslora"),
        target_modules=_names(content, "target_modules"),
        rank_pattern=_rank_pattern(content.get("rank_pattern")),
        alpha_pattern=_alpha_pattern(content.get("alpha_pattern")),
        modules_to_save=_names(content, "modules_to_save"),
        saves_bias=_bias(content) != "none",
        lora_bias=_flag(content, "lora_bias"),
        fan_in_fan_out=_flag(content, "fan_in_fan_out"),
    )
    if not config.target_modules:
        raise InvalidAdapter(f"{CONFIG}: target_modules must list the modules that are adapted")
    _require_no_more(content)
    return config


def name_the_base(path: Path, base_model: str) -> None:
    """The model's name instead of its folder on one machine, which means nothing elsewhere."""
    content = {**_read(path), "base_model_name_or_path": base_model}
    path.write_text(json.dumps(content, indent=2, sort_keys=True))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidAdapter(f"{path.name} is larger than {MAX_BYTES} bytes")
        content = parse(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidAdapter(f"{path.name} is missing") from None
    except (ValueError, RecursionError):
        raise InvalidAdapter(f"{path.name} is not JSON") from None
    if not isinstance(content, dict):
        raise InvalidAdapter(f"{path.name} is not a JSON object")
    return content


_KNOWN = frozenset(
    {
        "alpha_pattern", "auto_mapping", "bias", "fan_in_fan_out", "lora_alpha", "lora_bias",
        "modules_to_save", "peft_type", "r", "rank_pattern", "target_modules", "use_dora",
        "use_rslora",
    }
)  # fmt: skip


def _require_no_more(content: Mapping[str, Any]) -> None:
    _auto_mapping(content.get("auto_mapping"))
    for key, value in content.items():
        if key in _KNOWN or key in _SAY_NOTHING or not value or value in _HARMLESS.get(key, ()):
            continue
        raise InvalidAdapter(f"{CONFIG}: {_shown(key)} is set, which is not supported here")


def _auto_mapping(value: object) -> None:
    """PEFT imports the library that is named here."""
    library = value.get("parent_library") if isinstance(value, dict) else value
    if value is not None and not str(library).startswith("transformers."):
        raise InvalidAdapter(f"{CONFIG}: auto_mapping names {_shown(library)}, not transformers")


def _rank(value: object, key: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        fault = f"{key} is {_shown(value)}, not a rank from 1 to {MAX_RANK}"
        raise InvalidAdapter(f"{CONFIG}: {fault}")
    return value


def _alpha(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise InvalidAdapter(f"{CONFIG}: {key} is {_shown(value)}, not a number above 0")
    return value


def _flag(content: Mapping[str, Any], key: str) -> bool:
    """Older releases of PEFT did not write all of them: absent, or null, is false."""
    value = content.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidAdapter(f"{CONFIG}: {key} is {_shown(value)}, not true or false")
    return value


def _bias(content: Mapping[str, Any]) -> object:
    value = content.get("bias", "none")
    if value not in ("none", "all", "lora_only"):
        raise InvalidAdapter(f"{CONFIG}: bias is {_shown(value)}")
    return value


def _base_model(content: Mapping[str, Any]) -> str | None:
    value = content.get("base_model_name_or_path")
    if value is not None and not (isinstance(value, str) and value.isprintable()):
        raise InvalidAdapter(f"{CONFIG}: base_model_name_or_path is {_shown(value)}")
    return value or None


def _names(content: Mapping[str, Any], key: str) -> frozenset[str]:
    """A list of names. PEFT also takes a regular expression, which could be made to hang it."""
    value = content.get(key) or []
    if not isinstance(value, list) or not all(_is_name(name) for name in value):
        raise InvalidAdapter(f"{CONFIG}: {key} must be a list of modules' names")
    return frozenset(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _rank_pattern(value: object) -> Mapping[str, int]:
    pattern = _pattern(value, "rank_pattern")
    return {key: _rank(rank, f"rank_pattern[{key!r}]") for key, rank in pattern.items()}


def _alpha_pattern(value: object) -> Mapping[str, float]:
    pattern = _pattern(value, "alpha_pattern")
    return {key: _alpha(alpha, f"alpha_pattern[{key!r}]") for key, alpha in pattern.items()}


def _pattern(value: object, name: str) -> Mapping[str, Any]:
    """Keys are regular expressions to PEFT; here they are names, with ^, $ and \\. at most."""
    pattern = value or {}
    if not isinstance(pattern, dict) or not all(_PATTERN.fullmatch(key) for key in pattern):
        raise InvalidAdapter(f"{CONFIG}: {name} must map modules' names to numbers")
    return pattern


def _is_named(module: str, key: str) -> bool:
    """Whether `key` is the module's name or, at a dot, the end of it."""
    name = key.removeprefix("^").removesuffix("$").replace("\\.", ".")
    return module == name or (not key.startswith("^") and module.endswith(f".{name}"))


def _shown(value: object) -> str:
    """Not whole: it may be long, or somebody's secret."""
    return repr(value)[:60]
