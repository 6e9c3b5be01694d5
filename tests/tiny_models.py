"""Untrained models of a hundred thousand parameters, each like one of the families FinLoRA tunes.

What makes a family here is what its files say: kind of tokenizer, special tokens, chat template,
names and shapes of its layers. `demo.tiny_base` makes the Llama 3 that also learns.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from demo.tiny_base import LLAMA3_SPLIT, build_tiny_base, random_answers, texts_of

VOCABULARY = 1024
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
INST_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' "
    "+ ('model' if message['role'] == 'assistant' else message['role']) + '\n' "
    "+ message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def make_llama_3(folder: Path) -> None:
    build_tiny_base(folder, pretrain_steps=0)


def make_llama_2(folder: Path) -> None:
    """A base model without a chat template; its tokenizer names no padding."""
    tokenizer = _sentencepiece_like(("<unk>", "<s>", "</s>"), bos="<s>", eos="</s>")
    _save(folder, tokenizer, LlamaConfig(**SIZES, **_ids(tokenizer)))


def make_mistral(folder: Path) -> None:
    tokenizer = _sentencepiece_like(
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        bos="<s>",
        eos="</s>",
        chat_template=INST_TEMPLATE,
    )
    config = MistralConfig(**SIZES, sliding_window=None, head_dim=16, **_ids(tokenizer))
    _save(folder, tokenizer, config)


def make_qwen(folder: Path) -> None:
    """Biases beside q, k and v; a tokenizer without a beginning-of-text token."""
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = _byte_level(
        specials, pad="<|endoftext|>", eos="<|im_end|>", chat_template=CHATML_TEMPLATE
    )
    _save(folder, tokenizer, Qwen2Config(**SIZES, tie_word_embeddings=True, **_ids(tokenizer)))


def make_gemma(folder: Path) -> None:
    """Heads wider than the hidden size by their number; tied, scaled embeddings."""
    tokenizer = _sentencepiece_like(
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        chat_template=GEMMA_TEMPLATE,
    )
    _save(folder, tokenizer, GemmaConfig(**SIZES, head_dim=32, **_ids(tokenizer)))


FAMILIES: Mapping[str, Callable[[Path], None]] = {
    "llama_3": make_llama_3,
    "llama_2": make_llama_2,
    "mistral": make_mistral,
    "qwen": make_qwen,
    "gemma": make_gemma,
}


def _save(folder: Path, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _sentencepiece_like(
    specials: Sequence[str],
    *,
    bos: str,
    eos: str,
    pad: str | None = None,
    chat_template: str | None = None,
) -> PreTrainedTokenizerFast:
    """A BPE over text whose spaces are written as ▁, with bytes for what it does not know."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    core.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+|▁"), behavior="isolated")
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    _learn(core, (*specials, *byte_tokens), [])
    return _wrapped(core, specials, bos=bos, eos=eos, pad=pad, chat_template=chat_template)


def _byte_level(
    specials: Sequence[str], *, eos: str, pad: str, chat_template: str
) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    _learn(core, specials, pre_tokenizers.ByteLevel.alphabet())
    return _wrapped(core, specials, eos=eos, pad=pad, chat_template=chat_template)


def _learn(core: Tokenizer, specials: Sequence[str], alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(  # type: ignore[no-untyped-call]  # its stub has no types
        vocab_size=VOCABULARY,
        special_tokens=list(specials),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    rows = random_answers(seed=0)[:500]
    core.train_from_iterator((text for row in rows for text in texts_of(row)), trainer)


def _wrapped(
    core: Tokenizer,
    specials: Sequence[str],
    *,
    eos: str,
    bos: str | None = None,
    pad: str | None = None,
    chat_template: str | None = None,
) -> PreTrainedTokenizerFast:
    named = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    named["unk_token"] = "<unk>" if "<unk>" in specials else None
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **{role: token for role, token in named.items() if token},
        extra_special_tokens=[token for token in specials if token not in named.values()],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        chat_template=chat_template,
    )
