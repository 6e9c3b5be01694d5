"""Who can serve which adapter: a verdict per variant and engine, the reason, and the command."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from finlora_core.adapters.peft_config import PeftConfig
from finlora_core.adapters.serving import (
    TABLE,
    Engine,
    Listed,
    Serving,
    Trait,
    Verdict,
    engines,
    read_verdicts,
    serving_verdicts,
)
from finlora_core.adapters.tensors import Tensor
from tests.lora import write_adapter

PEFT, VLLM, SGLANG, GGUF = "PEFT", "vLLM", "SGLang", "GGUF (llama.cpp)"
OK, UNKNOWN, MERGE, NO = Serving.OK, Serving.UNKNOWN, Serving.NEEDS_MERGE, Serving.UNSUPPORTED

LAYER = "base_model.model.model.layers.0"
Q = f"{LAYER}.self_attn.q_proj"
PLAIN = (f"{Q}.lora_A.weight", f"{Q}.lora_B.weight")
HEAD = "base_model.model.lm_head"
EMBED = "base_model.model.model.embed_tokens"


def judge_all(
    tensors: tuple[str, ...] = PLAIN, *, bits: int | None = None, dtype: str = "BF16", **peft: Any
) -> Sequence[Verdict]:
    said = {"base_model": "org/model", "rank": 8, "alpha": 16, "use_dora": False}
    said |= {"use_rslora": False, "target_modules": frozenset({"q_proj"})}
    return serving_verdicts(
        Listed(id="adp_1", name="sentiment", version=2, base_model="org/model", quant_bits=bits),
        PeftConfig(**{**said, **peft}),
        [Tensor(name, dtype, (8, 8), 0, 128) for name in tensors],
    )


def judge(tensors: tuple[str, ...] = PLAIN, **adapter: Any) -> dict[str, Verdict]:
    """The verdict of each engine's newest releases."""
    return {verdict.engine: verdict for verdict in reversed(judge_all(tensors, **adapter))}


@dataclass(frozen=True)
class Case:
    vllm: Serving
    sglang: Serving
    gguf: Serving
    peft: Serving = OK
    tensors: tuple[str, ...] = ()
    """Beside those of plain LoRA."""
    bits: int | None = None
    config: dict[str, Any] = field(default_factory=dict)


CASES = {
    "plain LoRA": Case(OK, OK, OK),
    "rsLoRA": Case(OK, MERGE, OK, config={"use_rslora": True}),
    "DoRA": Case(
        MERGE, MERGE, MERGE, tensors=(f"{Q}.lora_magnitude_vector",), config={"use_dora": True}
    ),
    "DoRA that only the tensors show": Case(
        MERGE, MERGE, MERGE, tensors=(f"{Q}.lora_magnitude_vector.weight",)
    ),
    "a base in 4 bits": Case(OK, OK, OK, bits=4),
    "a base in 8 bits": Case(OK, OK, OK, bits=8),
    "rank 128": Case(OK, OK, OK, config={"rank": 128}),
    "rank 1024": Case(MERGE, OK, OK, config={"rank": 1024}),
    "ranks by pattern": Case(OK, MERGE, OK, config={"rank_pattern": {"q_proj": 4}}),
    "alphas by pattern": Case(OK, MERGE, MERGE, config={"alpha_pattern": {"q_proj": 4}}),
    "rsLoRA with ranks by pattern": Case(
        OK, MERGE, MERGE, config={"use_rslora": True, "rank_pattern": {"q_proj": 4}}
    ),
    "a bias of lora_B": Case(NO, NO, NO, tensors=(f"{Q}.lora_B.bias",)),
    "biases, and the base has none": Case(MERGE, OK, OK, config={"saves_bias": True}),
    "trained biases": Case(
        MERGE, MERGE, MERGE, tensors=(f"{Q}.base_layer.bias",), config={"saves_bias": True}
    ),
    "norms trained whole": Case(
        MERGE,
        MERGE,
        MERGE,
        tensors=(f"{LAYER}.input_layernorm.weight",),
        config={"modules_to_save": frozenset({"input_layernorm"})},
    ),
    "added tokens": Case(MERGE, MERGE, MERGE, tensors=(f"{EMBED}.weight", f"{HEAD}.weight")),
    "LoRA on lm_head": Case(
        UNKNOWN,
        OK,
        UNKNOWN,
        tensors=(f"{HEAD}.lora_A.weight", f"{HEAD}.lora_B.weight", f"{HEAD}.base_layer.weight"),
    ),
    "LoRA on the embeddings": Case(
        UNKNOWN, OK, OK, tensors=(f"{EMBED}.lora_embedding_A", f"{EMBED}.lora_embedding_B")
    ),
    "LoRA on embeddings of another name": Case(
        UNKNOWN, OK, OK, tensors=("base_model.model.x.word_embeddings.lora_embedding_A",)
    ),
    "LoRA on a module that few models have": Case(
        OK, UNKNOWN, OK, tensors=(f"{LAYER}.mixer.in_proj.lora_A.weight",)
    ),
    "a base with weights as GPT-2 has them": Case(
        UNKNOWN, UNKNOWN, UNKNOWN, config={"fan_in_fan_out": True}
    ),
    "tensors that nobody knows": Case(NO, UNKNOWN, NO, UNKNOWN, tensors=(f"{Q}.ada_lora_E",)),
    "DoRA on lm_head: the worst counts": Case(
        MERGE, MERGE, MERGE, tensors=(f"{HEAD}.lora_A.weight",), config={"use_dora": True}
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_engine_has_its_verdict_on_each_variant(case: Case) -> None:
    seen = judge((*PLAIN, *case.tensors), bits=case.bits, **case.config)
    expected = {VLLM: case.vllm, SGLANG: case.sglang, GGUF: case.gguf, PEFT: case.peft}
    assert {engine: verdict.verdict for engine, verdict in seen.items()} == expected
    for verdict in seen.values():
        assert verdict.reasons or verdict.verdict is OK, verdict
        assert (verdict.how is None) == (verdict.verdict is NO), verdict


def test_the_case_of_dora_says_so_and_how_the_merged_model_is_served() -> None:
    verdict = judge(use_dora=True)[VLLM]
    assert verdict.reasons == ("DoRA is refused",)
    assert verdict.how == (
        "finlora adapters merge adp_1 && finlora adapters pull adp_1 --merged && "
        "vllm serve ./sentiment-v2-merged --served-model-name sentiment"
    )


def test_an_adapter_without_peculiarities_needs_no_flag_and_no_remark() -> None:
    verdicts = judge(dtype="F32")
    assert {verdict.reasons for verdict in verdicts.values()} == {()}
    assert verdicts[VLLM].how == (
        "vllm serve org/model --enable-lora --lora-modules sentiment=./sentiment-v2"
    )
    assert verdicts[SGLANG].how == (
        "python -m sglang.launch_server --model-path org/model "
        "--lora-paths sentiment=./sentiment-v2"
    )
    assert verdicts[PEFT].how == 'AutoPeftModelForCausalLM.from_pretrained("./sentiment-v2")'
    assert str(verdicts[GGUF].how).endswith("--lora-scaled sentiment.gguf:1")


@pytest.mark.parametrize(
    ("rank", "flag"),
    [(1, ""), (16, ""), (17, "32"), (128, "128"), (300, "320"), (512, "512")],
)
def test_vllm_is_told_the_lowest_rank_that_is_enough(rank: int, flag: str) -> None:
    verdict = judge(rank=rank)[VLLM]
    assert str(verdict.how).partition(" --max-lora-rank ")[2] == flag
    assert bool(verdict.reasons) == bool(flag)


def test_the_highest_rank_of_a_pattern_counts() -> None:
    verdict = judge(rank_pattern={"q_proj": 64})[VLLM]
    assert str(verdict.how).endswith("--max-lora-rank 64")


def test_llama_cpp_gets_the_scale_that_it_does_not_read() -> None:
    verdict = judge(rank=16, use_rslora=True)[GGUF]
    assert str(verdict.how).endswith("--lora-scaled sentiment.gguf:4")
    uneven = judge(rank=8, use_rslora=True)[GGUF]
    assert float(str(uneven.how).rpartition(":")[2]) == pytest.approx(8**0.5, rel=1e-7)


def test_a_remark_is_left_out_where_a_reason_stands() -> None:
    assert judge(bits=4, use_dora=True)[VLLM].reasons == ("DoRA is refused",)
    [remark] = judge(bits=4)[VLLM].reasons
    assert "4 bits" in remark


def test_older_releases_have_a_verdict_of_their_own() -> None:
    verdicts = judge_all(alpha_pattern={"q_proj": 4})
    assert [it.verdict for it in verdicts if it.engine == VLLM] == [OK, MERGE, MERGE]


def test_the_oldest_vllm_serves_a_4_bit_base_as_it_was_trained() -> None:
    *newer, oldest = (str(it.how) for it in judge_all(bits=4) if it.engine == VLLM)
    assert oldest.endswith("--quantization bitsandbytes")
    assert not any("bitsandbytes" in how for how in newer)


def test_a_published_folder_is_read_by_its_config_and_its_header(tmp_path: Path) -> None:
    write_adapter(tmp_path, rank=64, use_rslora=True)
    listed = Listed(id="adp_1", name="a", version=1, base_model="org/model", quant_bits=None)
    verdicts = {it.engine: it for it in reversed(read_verdicts(tmp_path, listed))}
    assert verdicts[SGLANG].verdict is MERGE
    assert str(verdicts[VLLM].how).endswith("--max-lora-rank 64")


# ---- the table


def test_every_engine_says_of_every_trait_what_it_does_and_where_that_is_written() -> None:
    for engine in engines():
        assert engine.facts.keys() == set(Trait), engine.name
        assert all(fact.source for fact in engine.facts.values()), engine.name
        for trait, fact in engine.facts.items():
            assert fact.why or fact.verdict is OK, f"{engine.name}: {trait} has no reason"
        if any(fact.verdict is MERGE for fact in engine.facts.values()):
            assert engine.merged, engine.name


def test_an_entry_that_leaves_a_trait_out_is_refused() -> None:
    entry = tomllib.loads(TABLE.read_text())["engines"][0]
    del entry["facts"]["dora"]
    with pytest.raises(ValidationError, match="says nothing of"):
        Engine.model_validate(entry)
