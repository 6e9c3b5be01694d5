"""The README.md of a merged model: facts from its manifest."""

import json
from collections.abc import Mapping
from typing import Any

_CARD = """\
---
base_model: {quoted_base}
library_name: transformers
pipeline_tag: text-generation
tags: [lora, finlora]
---

# {name} version {adapter_version}, merged

The LoRA adapter `{adapter_id}` merged into `{base_model}`{bits}, in bfloat16.

| | |
| --- | --- |
| merge | `{merge_id}` |
| variant of the adapter | `{variant}` |
| revision of the base | `{base_revision}` |
| measured on | {rows} rows, {tokens} tokens |
| KL divergence from the adapter on its base | {kl:.3g} nats a token |
| same most likely token | {top1_agreement:.1%} |
{override}
`manifest.json` lists every file with its SHA-256.
"""


def card(facts: Mapping[str, Any]) -> str:
    """Markdown with the front matter that model hubs read."""
    bits = facts["quant_bits"]
    return _CARD.format(
        **facts,
        **facts["fidelity"],
        quoted_base=json.dumps(facts["base_model"]),  # JSON's strings are YAML's too
        bits=f", from the {bits} bits that it was trained in" if bits else "",
        override=_override(facts),
    )


def _override(facts: Mapping[str, Any]) -> str:
    if not facts["overridden"]:
        return ""
    reason = facts["config"]["override"].replace("|", "\\|")
    return (
        f"| not as near as was asked for | {'; '.join(facts['overridden'])} |\n"
        f"| published because | {reason} |\n"
    )
