"""Merges an adapter into its base: `python -m worker.merger`, in an attempt's environment.

Into the weights that it was trained on: a base in 4 or 8 bits is dequantised, not read anew in
16 (docs/decisions/0020). One model is in memory at a time. What is measured is the merged model as
it was saved, in 16 bits; the logits of the adapter on its base wait on disk for that.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from finlora_core.merging.fidelity import Fidelity
from finlora_core.merging.probes import TOKENS
from finlora_core.training.files import ATTEMPT_DIR, AttemptFiles
from worker.aside import set_training_aside
from worker.evaluator import Refused, encode, require_bits
from worker.generation import free_memory
from worker.loading import Prompts, load_base, load_tokenizer
from worker.merge_errand import MergeErrand
from worker.probe import Distance, logits_of
from worker.progress import Progress
from worker.tail import write_json

SHARD = "5GB"
"""The size of a weights file, as model hubs have it."""


def run(errand: MergeErrand, files: AttemptFiles) -> Fidelity:
    """Each row of either model is a step, and whatever loads or saves one.

    Raises `Refused`, and what transformers, PEFT and torch raise.
    """
    prompts = Prompts(load_tokenizer(errand.base, errand.adapter))
    rows = list(_tokens(prompts, errand))
    progress = Progress(files, 2 * len(rows) + 3)
    files.prepared.mkdir(exist_ok=True)
    _keep_logits(errand, rows, files.prepared, progress)
    _save_merged(errand, files.output)
    prompts.tokenizer.save_pretrained(files.output)
    print("the merged model is saved", flush=True)
    progress.advance()
    return _compare(errand, rows, files, progress)


def _tokens(prompts: Prompts, errand: MergeErrand) -> Iterator[Sequence[int]]:
    """The prompt of each row and what is answered, as in training; cut short."""
    for given, target in errand.rows:
        answer = prompts.tokenizer.encode(target, add_special_tokens=False)
        yield [*encode(prompts, given, errand.form), *answer][:TOKENS]


def _keep_logits(
    errand: MergeErrand, rows: Sequence[Sequence[int]], folder: Path, progress: Progress
) -> None:
    """Of the adapter on its base, as it was trained."""
    base = load_base(errand.base, errand.quant_bits, errand.hardware)
    require_bits(base, errand.quant_bits)
    model = PeftModel.from_pretrained(base, errand.adapter).eval()
    print("the adapter is loaded on its base", flush=True)
    progress.advance()
    with set_training_aside(model):
        for number, row in enumerate(rows):
            save_file({"logits": logits_of(model, row).cpu()}, _logits(folder, number))
            progress.advance()
    del base, model
    free_memory()


def _save_merged(errand: MergeErrand, folder: Path) -> None:
    base = load_base(errand.base, errand.quant_bits, errand.hardware)
    if errand.quant_bits is not None:
        base = base.dequantize(dtype=torch.bfloat16)
    model: Any = PeftModel.from_pretrained(base.to(torch.bfloat16), errand.adapter)
    model = model.merge_and_unload(safe_merge=True)
    model.save_pretrained(folder, max_shard_size=SHARD)
    del base, model
    free_memory()


def _compare(
    errand: MergeErrand, rows: Sequence[Sequence[int]], files: AttemptFiles, progress: Progress
) -> Fidelity:
    merged = load_base(files.output, None, errand.hardware)
    print("the merged model is loaded", flush=True)
    progress.advance()
    distance = Distance()
    with set_training_aside(merged):
        for number, row in enumerate(rows):
            kept = load_file(_logits(files.prepared, number))["logits"]
            distance.add(kept, logits_of(merged, row).cpu())
            progress.advance()
    return Fidelity.model_validate(distance.figures())


def _logits(folder: Path, row: int) -> Path:
    return folder / f"logits-{row}.safetensors"


def main() -> None:
    files = AttemptFiles(Path(os.environ[ATTEMPT_DIR]))
    errand = MergeErrand.model_validate_json(files.errand.read_text())
    try:
        found = run(errand, files)
    except Refused as refused:
        files.failure.write_text(json.dumps({"code": refused.code, "detail": str(refused)}))
        sys.exit(1)
    write_json(files.completed, found.model_dump())


if __name__ == "__main__":
    main()
