"""What a base model says of itself: its kind, its special tokens, its chat template.

Read from the JSON files in its folder; neither torch nor transformers is needed, no code of
the model is run, and its name decides nothing where the folder is at hand.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finlora_core.errors import BaseModelUnreadable
from finlora_core.training.memory import ModelShape

CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"

LLAMA_3_MARKS = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}
"""The tokens around a turn in Llama 3's chat template."""

LLAMA_3_PAD = "<|end_of_text|>"
"""FinLoRA's choice for Llama 3, whose tokenizer names none."""

PADDING = ("<pad>", "[PAD]", "<|pad|>", "<|endoftext|>", "<unk>")
"""Names of tokens that are good to pad with, the best first: never one a text could hold."""


@dataclass(frozen=True)
class BaseModelFacts:
    """As much as rendering an Axolotl configuration takes."""

    is_llama_3: bool
    pad_token: str | None = None
    """What to pad with, a token of the vocabulary; None where the tokenizer names its own."""
    has_chat_template: bool = True
    shape: ModelShape | None = None
    """None where the files do not tell."""


def guess_from_name(name: str) -> BaseModelFacts:
    """FinLoRA's rule, for a model that is not at hand yet."""
    is_llama_3 = "Llama-3" in name
    return BaseModelFacts(is_llama_3, LLAMA_3_PAD if is_llama_3 else None)


def find_base_model(name: str, roots: Iterable[Path]) -> Path | None:
    """The model's folder below the first root that has it; nothing outside them is looked at."""
    for root in roots:
        folder = (root / name).resolve()
        if folder.is_relative_to(root.resolve()) and (folder / CONFIG).is_file():
            return folder
    return None


def list_base_models(roots: Iterable[Path]) -> Mapping[str, Path]:
    """Folder by name, `<org>/<model>`, of those at hand; the first root that has one counts."""
    found: dict[str, Path] = {}
    for root in roots:
        for config in sorted(root.glob(f"*/*/{CONFIG}")):
            found.setdefault(f"{config.parent.parent.name}/{config.parent.name}", config.parent)
    return found


def read_base_model(folder: Path) -> BaseModelFacts:
    """Raises `BaseModelUnreadable`, naming the file."""
    config = _read_object(folder / CONFIG)
    settings = _read_object_if_there(folder / TOKENIZER_CONFIG)
    tokens = _vocabulary(folder, settings)
    is_llama_3 = config.get("model_type") == "llama" and tokens >= LLAMA_3_MARKS
    return BaseModelFacts(
        is_llama_3=is_llama_3,
        pad_token=_padding(settings, tokens, is_llama_3=is_llama_3),
        has_chat_template=bool(settings.get("chat_template"))
        or (folder / CHAT_TEMPLATE).is_file(),
        shape=_shape(config, folder),
    )


def _shape(config: Mapping[str, Any], folder: Path) -> ModelShape | None:
    """From config.json, and from the size of the weights, which lie there in 16 bits."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        width = config.get("head_dim") or hidden // heads
        shape = ModelShape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            key_value=int(width * (config.get("num_key_value_heads") or heads)),
            vocabulary=int(config["vocab_size"]),
            parameters=weights // 2,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return shape if weights else None


def _padding(settings: Mapping[str, Any], tokens: set[str], *, is_llama_3: bool) -> str | None:
    """A token that the vocabulary lacks would get an embedding that nothing has trained."""
    if _text_of(settings.get("pad_token")) in tokens:
        return None
    wanted = (LLAMA_3_PAD, *PADDING) if is_llama_3 else PADDING
    eos = _text_of(settings.get("eos_token"))
    return next((token for token in wanted if token in tokens), eos)


def _vocabulary(folder: Path, settings: Mapping[str, Any]) -> set[str]:
    """All tokens, as far as JSON names them: a SentencePiece model shows only its special ones."""
    added = settings.get("added_tokens_decoder") or {}
    tokens = {token["content"] for token in added.values()}
    tokens |= {
        _text_of(settings.get(key)) or "" for key in ("bos_token", "eos_token", "unk_token")
    }
    core = _read_object_if_there(folder / TOKENIZER)
    known = (core.get("model") or {}).get("vocab") or {}
    tokens |= {token["content"] for token in core.get("added_tokens") or ()}
    # a dict for BPE and WordPiece; pairs of token and score for Unigram
    return (tokens | {entry if isinstance(entry, str) else entry[0] for entry in known}) - {""}


def _text_of(token: object) -> str | None:
    """`"<s>"`, or `{"content": "<s>", …}` as older files have it."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _read_object_if_there(path: Path) -> Mapping[str, Any]:
    return _read_object(path) if path.exists() else {}


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BaseModelUnreadable(f"the base model's folder has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelUnreadable(
            f"the base model's {path.name} cannot be read: {error}"
        ) from None
    if not isinstance(content, dict):
        raise BaseModelUnreadable(f"the base model's {path.name} is not a JSON object")
    return content
