"""Which engines can serve an adapter, as it is or merged into its base, and how each is started.

What an engine's releases do is data, serving.toml, each fact with its source; here an adapter's
traits are looked up in it. Of the base only what the adapter's files say is known: whether an
engine takes LoRA on that family of models at all is not judged.
"""

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finlora_core.adapters.check import BIAS, KINDS, LORA, MAGNITUDE, OTHER, is_embedding
from finlora_core.adapters.manifest import CONFIG, WEIGHTS
from finlora_core.adapters.peft_config import PeftConfig, read_peft_config
from finlora_core.adapters.tensors import Tensor, read_header

MERGE = "finlora adapters merge {id} && finlora adapters pull {id} --merged && "
"""What brings the folder that is served then."""

TABLE = Path(__file__).with_suffix(".toml")


class Serving(StrEnum):
    """What comes of an adapter in an engine, the best first."""

    OK = "ok"
    UNKNOWN = "unknown"
    NEEDS_MERGE = "needs_merge"
    UNSUPPORTED = "unsupported"


_WORSE = tuple(Serving)


class Trait(StrEnum):
    """What engines differ in."""

    LORA = "lora"
    """On linear layers, which every adapter here has."""
    RSLORA = "rslora"
    DORA = "dora"
    RANK_PATTERN = "rank_pattern"
    RSLORA_RANK_PATTERN = "rslora_rank_pattern"
    ALPHA_PATTERN = "alpha_pattern"
    LORA_BIAS = "lora_bias"
    BIAS = "bias"
    """As the config says; a base without biases has none to save."""
    BIAS_TENSORS = "bias_tensors"
    MODULES_TO_SAVE = "modules_to_save"
    WHOLE_EMBEDDINGS = "whole_embeddings"
    LORA_EMBED_TOKENS = "lora_embed_tokens"
    LORA_LM_HEAD = "lora_lm_head"
    OTHER_MODULES = "other_modules"
    """LoRA on modules that are not among an engine's `modules`."""
    FAN_IN_FAN_OUT = "fan_in_fan_out"
    UNKNOWN_TENSORS = "unknown_tensors"
    FLOAT32 = "float32"
    BASE_4BIT = "base_4bit"
    BASE_8BIT = "base_8bit"


class Verdict(BaseModel):
    """Whether an engine can serve an adapter."""

    model_config = ConfigDict(frozen=True)

    engine: str = Field(examples=["vLLM"])
    releases: str = Field(
        description="The releases that this is true of, first and last.",
        examples=["0.32.0 - 0.33.0"],
    )
    verdict: Serving = Field(
        description="`ok`: as it is. `needs_merge`: merged into its base (docs/serving.md). "
        "`unsupported`: not even so. `unknown`: see `reasons`."
    )
    reasons: tuple[str, ...] = Field(
        description="Why not `ok`; or what to know where it is.",
        examples=[["rank 64 is above 16, which it expects unless told otherwise"]],
    )
    how: str | None = Field(
        description="The command, beside what `finlora adapters pull` has brought; with "
        "`needs_merge` after the commands that merge it. None where nothing helps.",
        examples=["vllm serve org/model --enable-lora --lora-modules a=./a-v1 --max-lora-rank 64"],
    )


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fact(_Row):
    """What an engine does with adapters that have a trait."""

    verdict: Serving
    why: str = ""
    flag: str = ""
    source: str


class Engine(_Row):
    """Releases of an engine that do the same."""

    name: str
    releases: str
    read: tuple[str, ...]
    serve: str
    merged: str = ""
    ranks: tuple[int, ...] = ()
    """That it can be told to expect, the default first; none: any rank will do."""
    rank_flag: str = ""
    rank_source: str = ""
    modules: frozenset[str] = frozenset()
    """The only ones that it takes LoRA on whatever the model; none: every linear one."""
    facts: Mapping[Trait, Fact]

    @model_validator(mode="after")
    def _has_every_trait(self) -> "Engine":
        if missing := set(Trait) - self.facts.keys():
            raise ValueError(f"{self.name} {self.releases} says nothing of {sorted(missing)}")
        return self


@cache
def engines() -> Sequence[Engine]:
    """In the order of the table: an engine's newest releases first."""
    read: dict[tuple[str, str], Mapping[str, Any]] = {}
    for entry in tomllib.loads(TABLE.read_text("utf-8"))["engines"]:
        alike = read[entry["name"], entry.pop("like")] if "like" in entry else {"facts": {}}
        facts = {**alike["facts"], **entry["facts"]}
        read[entry["name"], entry["releases"]] = {**alike, **entry, "facts": facts}
    return tuple(Engine.model_validate(entry) for entry in read.values())


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What the adapter's row says."""

    id: str
    name: str
    version: int
    base_model: str
    quant_bits: int | None
    """Of the base while it was trained."""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """As much of an adapter as decides who can serve it."""

    traits: frozenset[Trait]
    rank: int
    """The highest."""
    modules: frozenset[str]
    """The last parts of the names of those that have LoRA, embeddings left aside."""
    words: Mapping[str, object]
    """For the commands of the table."""


def read_verdicts(folder: Path, listed: Listed) -> Sequence[Verdict]:
    """Of a published adapter, by its config and the header of its weights.

    Raises `InvalidAdapter` or OSError where they are no longer what was published.
    """
    peft, tensors = read_peft_config(folder / CONFIG), read_header(folder / WEIGHTS)
    return serving_verdicts(listed, peft, tensors)


def serving_verdicts(
    listed: Listed, peft: PeftConfig, tensors: Sequence[Tensor]
) -> Sequence[Verdict]:
    """One for each engine and range of its releases, in the order of the table."""
    seen = _Seen(
        traits=frozenset(_traits(peft, tensors, listed.quant_bits)),
        rank=max(peft.rank, *peft.rank_pattern.values(), 0),
        modules=frozenset(_linear_modules(tensors)),
        words={
            "id": listed.id,
            "name": listed.name,
            "folder": f"{listed.name}-v{listed.version}",
            "base": listed.base_model,
            "scale": f"{_wrong_by(peft):.9g}",
        },
    )
    return [_judge(engine, seen) for engine in engines()]


def _wrong_by(peft: PeftConfig) -> float:
    """What alpha / rank has to be multiplied with."""
    return math.sqrt(peft.rank) if peft.use_rslora else 1


def _judge(engine: Engine, seen: _Seen) -> Verdict:
    traits = seen.traits
    if engine.modules and not seen.modules <= engine.modules:
        traits |= {Trait.OTHER_MODULES}
    facts = [fact for trait, fact in engine.facts.items() if trait in traits]
    if engine.ranks:
        facts.append(_of_rank(engine, seen.rank))
    worst = max((fact.verdict for fact in facts), key=_WORSE.index)
    told = [fact for fact in facts if worst is Serving.OK or fact.verdict is not Serving.OK]
    return Verdict(
        engine=engine.name,
        releases=engine.releases,
        verdict=worst,
        reasons=tuple(dict.fromkeys(fact.why for fact in told if fact.why)),
        how=_how(engine, seen, worst, "".join(fact.flag for fact in facts)),
    )


def _of_rank(engine: Engine, rank: int) -> Fact:
    """The lowest of the engine's ranks that the adapter fits into."""
    fitting = min((it for it in engine.ranks if it >= rank), default=None)
    if fitting is None:
        why = f"rank {rank} is above {max(engine.ranks)}, the highest that it can be told"
        return Fact(verdict=Serving.NEEDS_MERGE, why=why, source=engine.rank_source)
    if rank <= engine.ranks[0]:
        return Fact(verdict=Serving.OK, source=engine.rank_source)
    return Fact(
        verdict=Serving.OK,
        why=f"rank {rank} is above {engine.ranks[0]}, which it expects unless told otherwise",
        flag=engine.rank_flag.format(rank=fitting),
        source=engine.rank_source,
    )


def _how(engine: Engine, seen: _Seen, verdict: Serving, flags: str) -> str | None:
    if verdict is Serving.UNSUPPORTED:
        return None
    if verdict is Serving.NEEDS_MERGE:
        return f"{MERGE}{engine.merged}".format(**seen.words)
    return engine.serve.format(**seen.words, flags=flags)


# ---- an adapter's traits

_OF_KIND = {BIAS: (Trait.LORA_BIAS,), MAGNITUDE: (Trait.DORA,)}


def _traits(
    peft: PeftConfig, tensors: Iterable[Tensor], quant_bits: int | None
) -> Iterator[Trait]:
    yield Trait.LORA
    yield from _of_config(peft)
    for tensor in tensors:
        yield from _of_tensor(tensor)
    if quant_bits is not None:
        yield {4: Trait.BASE_4BIT, 8: Trait.BASE_8BIT}[quant_bits]


def _of_config(peft: PeftConfig) -> Iterator[Trait]:
    said = {
        Trait.RSLORA: peft.use_rslora,
        Trait.DORA: peft.use_dora,
        Trait.RANK_PATTERN: peft.rank_pattern,
        Trait.RSLORA_RANK_PATTERN: peft.use_rslora and peft.rank_pattern,
        Trait.ALPHA_PATTERN: peft.alpha_pattern,
        Trait.LORA_BIAS: peft.lora_bias,
        Trait.BIAS: peft.saves_bias,
        Trait.MODULES_TO_SAVE: peft.modules_to_save,
        Trait.FAN_IN_FAN_OUT: peft.fan_in_fan_out,
    }
    return (trait for trait, is_so in said.items() if is_so)


def _of_tensor(tensor: Tensor) -> Iterator[Trait]:
    if tensor.dtype == "F32":
        yield Trait.FLOAT32
    if match := LORA.fullmatch(tensor.name):
        yield from _of_lora(match[1], match[2])
    elif match := OTHER.fullmatch(tensor.name):
        yield from _of_whole(match[1], match[2], is_base=".base_layer." in tensor.name)
    else:
        yield Trait.UNKNOWN_TENSORS


def _of_lora(module: str, parameter: str) -> Iterator[Trait]:
    yield from _OF_KIND.get(KINDS[parameter], ())
    if _is_embedding(module, parameter):
        yield Trait.LORA_LM_HEAD if _last(module) == "lm_head" else Trait.LORA_EMBED_TOKENS


def _of_whole(module: str, parameter: str, *, is_base: bool) -> Iterator[Trait]:
    """PEFT also saves the base's own weight of an embedding that has LoRA: nothing to serve."""
    if parameter == "bias":
        yield Trait.BIAS_TENSORS
    elif not is_embedding(module):
        yield Trait.MODULES_TO_SAVE
    elif not is_base:
        yield Trait.WHOLE_EMBEDDINGS


def _linear_modules(tensors: Iterable[Tensor]) -> Iterator[str]:
    for tensor in tensors:
        match = LORA.fullmatch(tensor.name)
        if match and not _is_embedding(match[1], match[2]):
            yield _last(match[1])


def _is_embedding(module: str, parameter: str) -> bool:
    return is_embedding(module) or parameter.startswith("lora_embedding")


def _last(module: str) -> str:
    return module.rpartition(".")[2]
