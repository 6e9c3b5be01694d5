"""`finlora finetune` on a FinLoRA checkout, with a tiny model in the place of Llama."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from finlora_core.stack import free_port
from tests.support import BASE_MODEL, eventually

pytestmark = pytest.mark.training

Finetune = Callable[..., "subprocess.Popen[str]"]

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
CONFIG = {
    "base_model": LLAMA,
    "dataset_path": "../data/train/finlora_sentiment_train.jsonl",
    "lora_r": 8,
    "quant_bits": 8,
    "learning_rate": 0.0001,
    "num_epochs": 2,
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
    "peft_use_rslora": True,
}
NAMES = ("sentiment_8bits_r8_rslora", "sentiment_long")


@pytest.fixture
def checkout(tmp_path: Path, data: Path) -> Path:
    """As FinLoRA's: the configs in lora/, what they name in data/."""
    root = tmp_path / "FinLoRA"
    (root / "lora").mkdir(parents=True)
    (root / "data" / "train").mkdir(parents=True)
    rows = (data / "train.jsonl").read_text()
    (root / "data" / "train" / "finlora_sentiment_train.jsonl").write_text(rows)
    configs = {NAMES[0]: CONFIG, NAMES[1]: {**CONFIG, "num_epochs": 6}}
    (root / "lora" / "finetune_configs.json").write_text(json.dumps(configs, indent=2))
    return root


@pytest.fixture
def variables(tmp_path: Path, tiny_base: Path) -> dict[str, str]:
    """Of a user who has set nothing but where the model lies."""
    shutil.copytree(tiny_base / BASE_MODEL, tmp_path / "models" / LLAMA)
    return {
        **os.environ,
        "FINLORA_HOME": str(tmp_path / "home"),
        "FINLORA_MODELS_DIRS": str(tmp_path / "models"),
        "FINLORA_PORT": str(free_port()),
        "FINLORA_DEVICE": "cpu",
        "FINLORA_MIN_FREE_DISK_MIB": "0",
        "FINLORA_HEARTBEAT_SECONDS": "0.2",
    }


@pytest.fixture
def finetune(checkout: Path, variables: dict[str, str]) -> Iterator[Finetune]:
    """Starts `finlora finetune …` in the checkout; ends what a test leaves running."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> "subprocess.Popen[str]":
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "finlora_core.cli", "finetune", *words],
                cwd=checkout,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def test_finloras_own_words_train_an_adapter_without_any_service_running(
    finetune: Finetune, variables: dict[str, str], tmp_path: Path
) -> None:
    words = ("--config", "lora/finetune_configs.json", "--run_name", NAMES[0])
    said = finetune(*words).communicate()[0]
    assert "succeeded in" in said, said
    assert f"{NAMES[0]}: training  step " in said
    folder = tmp_path / "home" / "lora_adaptors" / "8bits_r8_rslora" / NAMES[0]
    assert f'PeftModel.from_pretrained(base, "{folder}")' in said
    peft = json.loads((folder / "adapter_config.json").read_text())
    assert (peft["r"], peft["use_rslora"]) == (8, True)
    assert peft["base_model_name_or_path"] == LLAMA
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{variables['FINLORA_PORT']}/healthz")


@pytest.mark.long
def test_the_same_command_goes_on_with_what_ctrl_c_has_stopped(
    finetune: Finetune, variables: dict[str, str]
) -> None:
    words = (NAMES[1], "--config_json", "lora/finetune_configs.json")
    url = f"http://127.0.0.1:{variables['FINLORA_PORT']}"
    home = Path(variables["FINLORA_HOME"])
    first = finetune(*words)
    assert eventually(lambda: first.poll() is not None or _step(url, home) >= 2, seconds=120)
    first.send_signal(signal.SIGINT)
    said = first.communicate()[0]
    assert first.returncode == 130, said
    assert "is queued. The same command goes on with it from its checkpoint at step" in said
    second = finetune(*words)
    said = second.communicate()[0]
    assert second.returncode == 0, said
    assert "which was stopped before its end" in said
    assert "version 1" in said


def _step(url: str, home: Path) -> int:
    try:
        headers = {"Authorization": f"Bearer {(home / 'api_key').read_text().strip()}"}
        runs: list[dict[str, Any]] = httpx.get(f"{url}/runs", timeout=5, headers=headers).json()[
            "data"
        ]
    except (httpx.TransportError, FileNotFoundError):
        return 0
    return max(((run["progress"] or {}).get("step", 0) for run in runs), default=0)
