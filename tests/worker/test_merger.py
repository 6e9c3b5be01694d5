"""Does a merged model say what its adapter says on its base? Real tiny models, on the CPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from finlora_core.evaluation.sets import rows_of
from finlora_core.merging.config import MergeTerms
from finlora_core.merging.fidelity import shortcomings
from finlora_core.merging.probes import OWN
from finlora_core.training.axolotl import Hardware
from finlora_core.training.files import AttemptFiles
from tests.support import BASE_MODEL, FORM
from worker.merge_errand import MergeErrand
from worker.merger import run

pytestmark = pytest.mark.training

PLAIN: dict[str, Any] = {}
RSLORA = {"use_rslora": True}
DORA = {"use_dora": True}


def make_adapter(
    tiny_base: Path,
    folder: Path,
    *,
    added_tokens: int = 0,
    has_embeddings: bool = False,
    **how: Any,
) -> Path:
    """What Axolotl would have made of the tiny base, but for the training."""
    import torch

    base = AutoModelForCausalLM.from_pretrained(tiny_base / BASE_MODEL)
    if added_tokens:
        base.resize_token_embeddings(base.config.vocab_size + added_tokens)
    model = get_peft_model(
        base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "up_proj"], **how)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                weight.data.normal_(0, 0.1)
            elif has_embeddings and "embed_tokens" in name:
                weight.data.normal_(0, 1)
    is_whole = has_embeddings or added_tokens > 0
    # said, since "auto" warns where the vocabulary has grown
    model.save_pretrained(folder, save_embedding_layers=True if is_whole else "auto")
    AutoTokenizer.from_pretrained(tiny_base / BASE_MODEL).save_pretrained(folder)
    return folder


def errand(tiny_base: Path, adapter: Path, bits: int | None) -> MergeErrand:
    return MergeErrand(
        base=tiny_base / BASE_MODEL,
        adapter=adapter,
        quant_bits=bits,  # type: ignore[arg-type]
        hardware=Hardware.CPU,
        form=FORM,
        rows=tuple((row.given, row.target) for row in rows_of(OWN, FORM)),
    )


@pytest.mark.parametrize(
    ("bits", "how", "kl"),
    [
        (None, RSLORA, 1e-5),
        (8, PLAIN, 1e-4),
        (8, DORA, 1e-4),
        (4, RSLORA, 1e-5),
        (4, DORA, 1e-5),
    ],
)
def test_each_variant_is_merged_into_the_weights_that_it_was_trained_on(
    tiny_base: Path, tmp_path: Path, bits: int | None, how: dict[str, Any], kl: float
) -> None:
    adapter = make_adapter(tiny_base, tmp_path / "adapter", **how)
    files = AttemptFiles(tmp_path / "attempt")
    files.create()
    found = run(errand(tiny_base, adapter, bits), files)
    assert (found.rows, found.tokens) == (16, found.tokens)
    assert found.kl < kl
    assert shortcomings(found, MergeTerms.model_validate({"min_top1_agreement": 0.85})) == []
    require_plain_model(files.output, tiny_base / BASE_MODEL)


def require_plain_model(folder: Path, base: Path) -> None:
    """In 16 bits, for any engine: neither LoRA nor quantised layers are left in it."""
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    with (
        safe_open(folder / "model.safetensors", "pt") as merged,
        safe_open(base / "model.safetensors", "pt") as plain,
    ):
        names = set(merged.keys())
        assert names == set(plain.keys())
        for name in names:
            weight = merged.get_tensor(name)
            assert weight.dtype is torch.bfloat16
            if "q_proj" in name or "up_proj" in name:
                assert (weight.float() - plain.get_tensor(name).float()).abs().max() > 0.01
