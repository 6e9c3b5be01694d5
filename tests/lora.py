"""An adapter in the small. Imports little: stand-ins for a trainer start anew in every test."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


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
