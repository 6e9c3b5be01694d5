"""Small things that many tests need."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from finlora_core.datasets.check import DatasetFacts
from finlora_core.runs.config import RunConfig

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FACTS = DatasetFacts(rows=2, sha256="d" * 64)
BASE_MODEL = "finlora/tiny-llama"


def make_config(**keys: Any) -> RunConfig:
    """A run config; `keys` replace or add to what it needs."""
    return RunConfig(**{"base_model": BASE_MODEL, "dataset_path": "train.jsonl", **keys})


def write_dataset(path: Path, rows: int = 2) -> Path:
    lines = [{"context": f"Profit rose to {n}. ", "target": "positive"} for n in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_adapter(folder: Path, *, rank: int = 8, fill: float = 0.5) -> None:
    """What Axolotl leaves behind for a run config with defaults, in the small."""
    folder.mkdir(parents=True, exist_ok=True)
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {
        f"{layer}.lora_A.weight": np.full((rank, 64), fill, np.float32),
        f"{layer}.lora_B.weight": np.full((64, rank), fill, np.float32),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    peft = {"peft_type": "LORA", "r": rank, "lora_alpha": 16}
    peft |= {"use_dora": False, "use_rslora": False, "base_model_name_or_path": "/somewhere"}
    (folder / "adapter_config.json").write_text(json.dumps(peft))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"a pickle")


def eventually(is_true: Callable[[], bool], *, seconds: float = 20) -> bool:
    """Poll, for facts whose time other processes decide."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class ListQueue:
    """A queue that is a list; `up = False` is a broker that is down."""

    def __init__(self) -> None:
        self.offered: list[str] = []
        self.up = True

    def offer(self, run_id: str) -> bool:
        if self.up:
            self.offered.append(run_id)
        return self.up

    def count_workers(self) -> int | None:
        return 1 if self.up else None
