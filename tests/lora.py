"""An adapter in the small. Imports little: stand-ins for a trainer start anew in every test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

LAYER = "model.layers.0.self_attn.q_proj"
WIDTH = 64
PROBE = {
    "rows": 1,
    "tokens": 8,
    "max_abs_difference": 0.5,
    "mean_abs_difference": 0.25,
    "kl": 0.125,
    "top1_agreement": 0.75,
}
"""What the plugin measures of an adapter that changes its model."""


def write_adapter(folder: Path, *, rank: int = 8, fill: float = 0.5, **peft: Any) -> None:
    """What Axolotl leaves behind for a run config with defaults, in the small.

    `peft` replaces or adds to what adapter_config.json says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        f"base_model.model.{LAYER}.lora_A.weight": np.full((rank, WIDTH), fill, np.float32),
        f"base_model.model.{LAYER}.lora_B.weight": np.full((WIDTH, rank), fill, np.float32),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"]}
    said |= {"use_dora": False, "use_rslora": False, "base_model_name_or_path": "org/model"}
    (folder / "adapter_config.json").write_text(json.dumps({**said, **peft}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"a pickle")
