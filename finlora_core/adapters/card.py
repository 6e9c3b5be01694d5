"""The README.md of a published adapter: facts from its manifest, and only those there are."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_METRICS = {
    "train_loss": "mean training loss",
    "loss": "last training loss",
    "eval_loss": "validation loss",
    "eval_ppl": "validation perplexity",
}
"""What Axolotl logs, and what it is called here."""

_HOW = """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```
"""


def card(facts: Mapping[str, Any]) -> str:
    """Markdown with the front matter that model hubs read."""
    parts = [
        _front_matter(facts),
        f"# {facts['name']} ({facts['variant']})\n",
        _origin(facts),
        "| | |\n| --- | --- |\n" + "".join(f"| {key} | {it} |\n" for key, it in _rows(facts)),
        *_prompt(facts),
        _HOW.format(base=json.dumps(facts["base_model"])),
        "`manifest.json` lists every file with its SHA-256.\n",
    ]
    return "\n".join(parts)


def _front_matter(facts: Mapping[str, Any]) -> str:
    base = json.dumps(facts["base_model"])  # JSON's strings are YAML's too
    fixed = "library_name: peft\npipeline_tag: text-generation\ntags: [lora, finlora]\n"
    return f"---\nbase_model: {base}\n{fixed}---\n"


def _origin(facts: Mapping[str, Any]) -> str:
    made = f"trained by run `{facts['run_id']}`" if facts.get("run_id") else "made elsewhere"
    return f"A LoRA adapter for `{facts['base_model']}`, {made}.\n"


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _adapter(facts["adapter"])
    if "base_revision" in facts:
        yield "revision of the base", f"`{facts['base_revision']}`"
    if "base_license" in facts:
        yield "licence of the base, by its own files", f"`{facts['base_license']}`"
    if "config" in facts:
        yield from _run(facts)
    yield from _training(facts.get("training") or {})
    yield from _probe(facts.get("probe") or {})
    if "hardware" in facts:
        yield "trained on", _listed(facts["hardware"])
    if "packages" in facts:
        yield "with", _listed(facts["packages"])


def _adapter(adapter: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    bits = adapter["quant_bits"] or "16 (not quantised)"
    yield "rank, alpha", f"{adapter['rank']}, {adapter['alpha']:g}"
    yield "bits of the base while training", str(bits)
    yield "DoRA, rsLoRA", f"{_yes(adapter['use_dora'])}, {_yes(adapter['use_rslora'])}"
    yield "adapted", ", ".join(adapter["target_modules"])
    yield "modules adapted, changed", f"{adapter['modules']}, {adapter['changed']}"


def _run(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    config = facts["config"]
    rows = f"{config['batch_size']} x {config['gradient_accumulation_steps']}"
    yield "learning rate, epochs", f"{config['learning_rate']:g}, {config['num_epochs']}"
    yield "rows a step", rows
    yield "seed", str(facts["seed"])
    yield "dataset", f"{facts['dataset_rows']} rows, SHA-256 `{facts['dataset_sha256']}`"


def _training(training: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "steps" in training:
        yield "steps", str(training["steps"])
    if best := training.get("best"):
        yield "published", _best(best, training.get("steps"))
    metrics = training.get("metrics") or {}
    for key, label in _METRICS.items():
        if isinstance(metrics.get(key), int | float):
            yield label, f"{metrics[key]:.4g}"


def _best(best: Mapping[str, Any], steps: object) -> str:
    metric, rows = str(best["metric"]).replace("_", " "), best["rows"]
    score = f"{metric} {best['value']:.4g} on {rows} held-out rows"
    return f"step {best['step']} of {steps}, {score}"


def _probe(probe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not probe:
        return
    logits = f"mean {probe['mean_abs_difference']:.3g}, max {probe['max_abs_difference']:.3g}"
    where = f" on {probe['tokens']} tokens" if "tokens" in probe else ""
    yield f"change of the logits{where}", logits
    yield "same most likely token as the base", f"{probe['top1_agreement']:.1%}"
    yield "KL divergence from the base", f"{probe['kl']:.3g} nats a token"


def _prompt(facts: Mapping[str, Any]) -> Iterator[str]:
    """In the words of the YAML that Axolotl was given."""
    form = facts.get("prompt")
    if isinstance(form, Mapping) and "format" in form:
        shown = str(form["format"]).replace("{instruction}", "{context}")
        yield f"Prompts had the form `{shown}`, with the target after it.\n"
    elif isinstance(form, str):
        yield f"Prompts had the form that Axolotl calls `{form}`.\n"


def _listed(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in content.items())


def _yes(value: bool) -> str:
    return "yes" if value else "no"
