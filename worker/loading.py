"""A base model in memory, in as many bits as it was trained in, and the tokens of its prompts.

All that needs torch. Only safetensors are read, and no code of the model is run.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from finlora_core.training.axolotl import Hardware
from worker.cpu_mends import keep_4bit_unpacked, keep_int8_scales


def load_base(folder: Path, quant_bits: int | None, hardware: Hardware) -> Any:
    """Ready to answer. Raises what transformers and torch raise when the files are not sound."""
    device = torch.device(hardware.value)
    dtype = _dtype(device)
    if device.type == "cpu":
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        keep_int8_scales()
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": device},
        quantization_config=_quantization(quant_bits, dtype),
        local_files_only=True,
        use_safetensors=True,
    ).eval()
    keep_4bit_unpacked(model)
    return model


def load_tokenizer(base: Path, adapter: Path | None) -> Any:
    """The adapter's, where it brings one."""
    brings = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    return AutoTokenizer.from_pretrained(adapter if brings else base, local_files_only=True)


class Prompts:
    """Prompts as tokens, as Axolotl makes them for training."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def of_text(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text)
        if ids and ids[-1] == self.tokenizer.eos_token_id:
            ids.pop()  # some tokenizers add it; Axolotl takes it away again
        return ids

    def of_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Raises what the template raises: they refuse what they like, in their own words."""
        return self._templated(messages, add_generation_prompt=True)

    def ends(self, model: Any, *, is_chat: bool) -> list[int]:
        """The tokens that end an answer: the tokenizer's, the base model's, a chat's turn's."""
        said = model.generation_config.eos_token_id
        ends = set(said if isinstance(said, list) else [said]) | {self.tokenizer.eos_token_id}
        if is_chat:
            ends.add(self._end_of_turn())
        return sorted(ends - {None})

    def text_of(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    @property
    def padding(self) -> int:
        id: int | None = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if id is None else id

    def _end_of_turn(self) -> int | None:
        """The special token that the chat template puts behind an answer."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        specials = set(self.tokenizer.all_special_ids)
        return next((id for id in reversed(self._templated(turns)) if id in specials), None)

    def _templated(self, messages: Sequence[Mapping[str, str]], **how: Any) -> list[int]:
        ids: list[int] = self.tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False, **how
        )
        return ids


def alpaca(instruction: str, input: str | None = None) -> str:
    """As Axolotl puts it."""
    from axolotl.prompters import AlpacaPrompter  # takes seconds, and most rows are FinLoRA's

    formed: str = next(iter(AlpacaPrompter().build_prompt(instruction, input)))
    return formed


def count_quantized(model: torch.nn.Module) -> dict[str, int]:
    """How many linear layers hold 4-bit and 8-bit weights."""
    import bitsandbytes

    kinds = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}
    layers = list(model.modules())
    return {bits: sum(isinstance(layer, kind) for layer in layers) for bits, kind in kinds.items()}


def _dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _quantization(bits: int | None, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """As Axolotl loads a base to train on it."""
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    if bits == 4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_type="nf4",
        )
    return None
