"""BERTScore of free text, where a model for it is at hand. Needs torch, and no network.

Zhang et al., "BERTScore: Evaluating Text Generation with BERT" (2020): each token of one text
with its nearest in the other, by the cosine of a hidden layer's outputs; F1 of both directions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torchmetrics.functional.text.bert import bert_score
from transformers import AutoModel, AutoTokenizer

from finlora_core.training.base_model import find_base_model

LAYERS: Mapping[str, int] = MappingProxyType(
    {"ProsusAI/finbert": 10, "FacebookAI/roberta-large": 17}
)
"""The best first: FinLoRA's, then bert-score's for English; with the layer that bert-score 0.3.13
takes of each."""

LONGEST = 512
"""Tokens of a text, as those models were trained; the rest is cut off."""


@dataclass(frozen=True)
class Scorer:
    """Scores of two are not comparable: a result must say which it was."""

    name: str
    folder: Path
    layer: int


def find_scorer(roots: Iterable[Path]) -> Scorer | None:
    """The first of `LAYERS` that lies in a models folder, as `<root>/<org>/<model>`."""
    roots = list(roots)
    for name, layer in LAYERS.items():
        if folder := find_base_model(name, roots):
            return Scorer(name, folder, layer)
    return None


def bert_scores(
    scorer: Scorer, outputs: Sequence[str], targets: Sequence[str], *, device: str = "cpu"
) -> list[float]:
    """F1 of each pair, without idf and without rescaling, as FinLoRA has it; 0 where one is blank.

    Raises what transformers raises when the model's files are not sound.
    """
    tokenizer = AutoTokenizer.from_pretrained(scorer.folder, local_files_only=True)
    model = AutoModel.from_pretrained(scorer.folder, local_files_only=True).to(device).eval()
    return [
        _score(scorer, tokenizer, model, output, target) if _both(output, target) else 0.0
        for output, target in zip(outputs, targets, strict=True)
    ]


def _both(output: str, target: str) -> bool:
    return bool(output.strip() and target.strip())


def _score(scorer: Scorer, tokenizer: Any, model: Any, output: str, target: str) -> float:
    """One pair a call: torchmetrics 1.9 sorts outputs and targets by length, each for itself, and
    then compares texts of different rows (Lightning-AI/torchmetrics issue 2728)."""
    longest = max(len(tokenizer(text)["input_ids"]) for text in (output, target))
    score = bert_score(
        [output],
        [target],
        model=model,
        user_tokenizer=tokenizer,
        num_layers=scorer.layer,
        max_length=min(longest, LONGEST, tokenizer.model_max_length),
        truncation=True,
        device=torch.device(next(model.parameters()).device),
    )
    return float(score["f1"])
