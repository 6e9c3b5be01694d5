"""Does the adapter change what the model says? Measured on tiny models, on the CPU."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.support import BASE_MODEL
from worker.cpu_mends import keep_4bit_unpacked, keep_int8_scales
from worker.probe import ROWS, TOKENS, probe, rows_of

pytestmark = pytest.mark.training

ROW = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6]]
NF4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
)
INT8 = BitsAndBytesConfig(load_in_8bit=True)

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float32": ({"dtype": torch.float32}, {}),
    "bfloat16": ({"dtype": torch.bfloat16}, {}),
    "rsLoRA": ({"dtype": torch.float32}, {"use_rslora": True}),
    "DoRA": ({"dtype": torch.float32}, {"use_dora": True}),
    "8 bits": ({"dtype": torch.float32, "quantization_config": INT8}, {}),
    "8 bits, DoRA": ({"dtype": torch.float32, "quantization_config": INT8}, {"use_dora": True}),
    "4 bits": ({"dtype": torch.float32, "quantization_config": NF4}, {}),
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tiny_base: Path) -> Any:
    """As it is at the end of a training whose last step is done."""
    loading, lora = KINDS[request.param]
    keep_int8_scales()
    base = AutoModelForCausalLM.from_pretrained(tiny_base / BASE_MODEL, **loading)
    keep_4bit_unpacked(base)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5, **lora)
    return get_peft_model(base, config).train()


@pytest.fixture
def plain(tiny_base: Path) -> Any:
    base = AutoModelForCausalLM.from_pretrained(tiny_base / BASE_MODEL, dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["v_proj"], lora_dropout=0.5)
    return get_peft_model(base, config).train()


def train_a_little(model: Any, by: float = 0.01) -> None:
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(by)


def test_an_untrained_adapter_changes_nothing_and_a_trained_one_does(model: Any) -> None:
    before = probe(model, ROW)
    assert (before["rows"], before["tokens"], before["top1_agreement"]) == (2, 12, 1.0)
    # the magnitudes of DoRA are rounded, which shows in the last digits of its logits
    assert before["max_abs_difference"] <= 1e-2
    train_a_little(model)
    after = probe(model, ROW)
    assert after["max_abs_difference"] > max(1e-4, before["max_abs_difference"])
    assert after["max_abs_difference"] >= after["mean_abs_difference"] > 0
    assert after["kl"] > 0


def test_a_probe_leaves_no_trace(plain: Any) -> None:
    train_a_little(plain)
    plain.base_model.model.model.embed_tokens.eval()
    modes = [module.training for module in plain.modules()]
    trained = [weight.requires_grad for weight in plain.parameters()]
    weights = [weight.clone() for weight in plain.parameters()]
    random = torch.get_rng_state()
    first = probe(plain, ROW)
    assert [module.training for module in plain.modules()] == modes
    assert [weight.requires_grad for weight in plain.parameters()] == trained
    assert all(map(torch.equal, plain.parameters(), weights))
    assert torch.equal(torch.get_rng_state(), random)
    assert probe(plain, ROW) == first


def test_numbers_that_are_not_numbers_are_shown(plain: Any) -> None:
    train_a_little(plain, by=float("nan"))
    assert math.isnan(probe(plain, ROW)["max_abs_difference"])


def test_a_difference_in_any_row_counts(plain: Any) -> None:
    train_a_little(plain)
    rows = [probe(plain, [row]) for row in ROW]
    both = probe(plain, ROW)
    assert both["max_abs_difference"] == max(row["max_abs_difference"] for row in rows)
    assert both["kl"] == pytest.approx(sum(r["kl"] * r["tokens"] for r in rows) / 12)


def test_a_few_rows_cut_short_are_enough() -> None:
    dataset = [{"input_ids": list(range(n)), "labels": []} for n in (0, 3, 10_000, 5, 6, 7)]
    rows = rows_of(dataset)
    assert [len(row) for row in rows] == [3, TOKENS, 5]
    assert len(rows) < ROWS
