"""The README.md of a published adapter: facts from its lineage, nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CARD = """\
---
base_model: {base_model}
library_name: peft
pipeline_tag: text-generation
tags: [lora, finlora]
---

# {name} ({variant})

A LoRA adapter for `{base_model}`, trained by run `{run_id}`.

| | |
| --- | --- |
| rank, alpha | {lora_r}, {lora_alpha} |
| bits of the base while training | {bits} |
| DoRA, rsLoRA | {dora}, {rslora} |
| learning rate, epochs | {learning_rate:g}, {num_epochs} |
| rows a step | {batch_size} x {gradient_accumulation_steps} |
| seed | {seed} |
| dataset | {dataset_rows} rows, SHA-256 `{dataset_sha256}` |
| steps, mean training loss | {steps}, {loss} |

Prompts had the form `[INST] {{context}} [/INST]`, with the target after it.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base_model}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

`manifest.json` lists every file with its SHA-256.
"""


def write_card(path: Path, lineage: Mapping[str, Any]) -> None:
    config, training = lineage["config"], lineage["training"]
    facts = {
        **config,
        **lineage,
        "bits": config["quant_bits"] or "16 (not quantised)",
        "dora": "yes" if config["peft_use_dora"] else "no",
        "rslora": "yes" if config["peft_use_rslora"] else "no",
        "steps": training["steps"],
        "loss": format(training["metrics"].get("train_loss", float("nan")), ".4f"),
    }
    path.write_text(_CARD.format_map(facts))
