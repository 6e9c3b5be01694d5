"""FinLoRA's five variants become adapters, trained by the real Axolotl on a CPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from finlora_core.client import Client
from finlora_core.stack import Stack
from tests.e2e.conftest import Train, wait_until_training
from tests.support import BASE_MODEL, CANARY

pytestmark = pytest.mark.training

LAYERS = 7 * 4
"""Linear layers of the tiny Llama that bitsandbytes replaces: 7 in each of 4 blocks."""

VARIANTS = [
    ("4bits_r4", {"lora_r": 4, "quant_bits": 4}, {"4bit": LAYERS, "8bit": 0}),
    ("8bits_r8", {"quant_bits": 8}, {"4bit": 0, "8bit": LAYERS}),
    ("8bits_r8_dora", {"quant_bits": 8, "peft_use_dora": True}, {"4bit": 0, "8bit": LAYERS}),
    ("8bits_r8_rslora", {"quant_bits": 8, "peft_use_rslora": True}, {"4bit": 0, "8bit": LAYERS}),
    ("fp16_r8", {}, {"4bit": 0, "8bit": 0}),
]

TRAINED_ROWS = 39
"""Of 40, one to validate on; each has more tokens than one."""

LOAD_WITH_PEFT = """
import json, sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model = PeftModel.from_pretrained(base, sys.argv[2])
lora = [p for n, p in model.named_parameters() if "lora_B" in n]
print(json.dumps({"tensors": len(lora), "moved": sum(bool(p.any()) for p in lora)}))
"""


@pytest.mark.parametrize(("variant", "keys", "quantized"), VARIANTS)
def test_every_finlora_variant_trains(
    train: Train,
    client: Client,
    stack: Stack,
    tiny_base: Path,
    tmp_path: Path,
    variant: str,
    keys: dict[str, Any],
    quantized: dict[str, int],
) -> None:
    run = train(**keys, name=f"all_{variant}")
    assert run["status"] == "succeeded", run["error"]
    assert run["variant"] == variant
    assert run["progress"]["percent"] == 100.0
    folder = client.download(run["adapter_id"], tmp_path)
    peft = json.loads((folder / "adapter_config.json").read_text())
    assert (peft["use_dora"], peft["use_rslora"]) == ("_dora" in variant, "_rslora" in variant)
    assert peft["base_model_name_or_path"] == BASE_MODEL
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["training"]["quantized_layers"] == quantized
    assert _loaded_with_peft(tiny_base / BASE_MODEL, folder) == {"tensors": 12, "moved": 12}
    assert _tokens_said(stack, run["adapter_id"]) > 0


def test_the_same_config_and_seed_give_the_same_adapter_bit_for_bit(
    train: Train, client: Client
) -> None:
    runs = [train(quant_bits=8, name="twice") for _ in range(2)]
    first, second = (client.get_adapter(run["adapter_id"]) for run in runs)
    assert first["sha256"] == second["sha256"]
    assert (first["version"], second["version"]) == (1, 2)


def test_a_job_of_the_openai_package_is_a_real_training_that_can_be_read_and_holds_no_secret(
    client: Client, stack: Stack, data: Path
) -> None:
    import httpx

    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key) as ai:
        file = ai.files.create(file=data / "train.jsonl", purpose="fine-tune")
        job = ai.fine_tuning.jobs.create(
            model=BASE_MODEL,
            training_file=file.id,
            suffix="readable",
            hyperparameters={"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 5},
        )
        run = client.wait(job.id.replace("ftjob-", "run_"), lambda seen: None)
        assert run["status"] == "succeeded", run["error"]
        job = ai.fine_tuning.jobs.retrieve(job.id)
        assert job.fine_tuned_model in [model.id for model in ai.models.list()]
        assert (job.trained_tokens or 0) > TRAINED_ROWS
        checkpoints = ai.fine_tuning.jobs.checkpoints.list(job.id).data
        assert [c.step_number for c in checkpoints] == [run["progress"]["max_steps"]]
        assert checkpoints[0].metrics.train_loss
        assert checkpoints[0].metrics.valid_loss
        heads, *rows = ai.files.content(job.result_files[0]).text.splitlines()
        assert heads.startswith("step,train_loss,valid_loss")
        assert len(rows) >= run["progress"]["max_steps"]
    url = f"{stack.url}/runs/{run['id']}"
    headers = {"Authorization": f"Bearer {stack.key}"}
    points = httpx.get(f"{url}/metrics", headers=headers).json()["data"]
    losses = [point["values"]["loss"] for point in points if "loss" in point["values"]]
    assert len(losses) == run["progress"]["max_steps"]
    assert all(loss > 0 for loss in losses)
    assert "Training completed" in httpx.get(f"{url}/logs", headers=headers).text
    assert "adapter: lora" in httpx.get(f"{url}/config.yaml", headers=headers).text
    files = [file for file in stack.settings.home.rglob("*") if file.is_file()]
    assert {"finlora.db", "adapter_model.safetensors"} <= {file.name for file in files}
    assert [file for file in files if CANARY.encode() in file.read_bytes()] == []


def test_a_base_model_that_cannot_be_loaded_fails_with_its_code(
    train: Train, tiny_base: Path
) -> None:
    broken = tiny_base / "finlora" / "no-weights"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (broken / name).write_bytes((tiny_base / BASE_MODEL / name).read_bytes())
    run = train(base_model="finlora/no-weights")
    assert (run["status"], run["error"]["code"]) == ("failed", "base_model_not_found")
    assert "safetensors" in run["error"]["log_tail"]


def test_a_tokenizer_that_eats_spaces_fails_the_run_before_training(
    train: Train, tiny_base: Path
) -> None:
    lossy = tiny_base / "finlora" / "eats-spaces"
    lossy.mkdir()
    for file in (tiny_base / BASE_MODEL).iterdir():
        (lossy / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((lossy / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": ""}
    (lossy / "tokenizer.json").write_text(json.dumps(tokenizer))
    run = train(base_model="finlora/eats-spaces")
    assert (run["status"], run["error"]["code"]) == ("failed", "tokenizer_mismatch")


def test_a_real_training_is_cancelled_within_seconds(client: Client) -> None:
    config = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl", "num_epochs": 1000}
    run = client.create_run(config)
    wait_until_training(client, run["id"])
    client.cancel_run(run["id"])
    ended = client.wait(run["id"], lambda seen: None, every=0.1)
    assert (ended["status"], ended["adapter_id"]) == ("cancelled", None)


def _loaded_with_peft(base: Path, adapter: Path) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITH_PEFT, str(base), str(adapter)],
        check=True,
        capture_output=True,
        text=True,
    )
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def _tokens_said(stack: Stack, adapter_id: str) -> int:
    """In the playground, by what has been trained on a base of as many bits."""
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as ai:
        answer = ai.chat.completions.create(
            model=adapter_id,
            messages=[{"role": "user", "content": "Profit rose."}],
            max_tokens=4,
            temperature=0,
        )
    assert answer.usage is not None
    return answer.usage.completion_tokens
