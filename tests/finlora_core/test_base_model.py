"""What a base model says of itself decides, not its name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finlora_core.errors import BaseModelUnreadable
from finlora_core.training.base_model import (
    CHAT_TEMPLATE,
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    guess_from_name,
    read_base_model,
)

Write = Callable[..., Path]
LLAMA_3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
           "<|eot_id|>")  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(kind: str, tokens: tuple[str, ...], **settings: Any) -> Path:
        vocabulary = {"vocab": {"profit": 0, "rose": 1}}
        added = [{"id": 2 + place, "content": token} for place, token in enumerate(tokens)]
        files = {
            CONFIG: {"model_type": kind},
            TOKENIZER: {"model": vocabulary, "added_tokens": added},
            TOKENIZER_CONFIG: settings,
        }
        for name, content in files.items():
            (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return write


def test_llama_3_is_known_by_its_tokens_whatever_it_is_called(write: Write) -> None:
    model = read_base_model(write("llama", LLAMA_3, eos_token="<|eot_id|>"))
    assert model.is_llama_3
    assert model.pad_token == "<|end_of_text|>"  # FinLoRA's


def test_another_llama_is_no_llama_3(write: Write) -> None:
    assert not read_base_model(write("llama", ("<unk>", "<s>", "</s>"))).is_llama_3
    assert not read_base_model(write("qwen2", LLAMA_3)).is_llama_3


def test_a_tokenizer_that_names_its_padding_keeps_it(write: Write) -> None:
    named = write("llama", (*LLAMA_3, "<|finetune_right_pad_id|>"),
                  pad_token="<|finetune_right_pad_id|>")  # fmt: skip
    assert read_base_model(named).pad_token is None


@pytest.mark.parametrize(
    ("tokens", "pad"),
    [
        (("<s>", "</s>", "<unk>", "<pad>"), "<pad>"),
        (("<s>", "</s>", "<unk>"), "<unk>"),
        (("<s>", "</s>"), "</s>"),  # the end of a text, which is masked where it is padding
    ],
)
def test_padding_is_a_token_that_the_vocabulary_has(
    write: Write, tokens: tuple[str, ...], pad: str
) -> None:
    """FinLoRA's <|end_of_text|> on Mistral would be a new token that nothing has trained."""
    folder = write("mistral", tokens, eos_token={"content": "</s>"}, pad_token="<|end_of_text|>")
    assert read_base_model(folder).pad_token == pad


def test_a_vocabulary_of_pairs_is_read_too(write: Write) -> None:
    folder = write("gemma", ())
    unigram = {"vocab": [["<pad>", 0.0], ["a", -1.0]], "unk_id": 0}
    (folder / TOKENIZER).write_text(json.dumps({"model": unigram}))
    assert read_base_model(folder).pad_token == "<pad>"


def test_without_a_tokenizer_json_the_special_tokens_are_known(write: Write) -> None:
    added = {"0": {"content": "<unk>"}, "1": {"content": "<s>"}}
    folder = write("llama", (), added_tokens_decoder=added, eos_token="</s>")
    (folder / TOKENIZER).unlink()
    assert read_base_model(folder).pad_token == "<unk>"


def test_a_chat_template_is_found_in_either_place(write: Write) -> None:
    assert not read_base_model(write("llama", (), chat_template=None)).has_chat_template
    assert read_base_model(write("llama", (), chat_template="{{ x }}")).has_chat_template
    folder = write("llama", ())
    (folder / CHAT_TEMPLATE).write_text("{{ x }}")
    assert read_base_model(folder).has_chat_template


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (CONFIG, None, "no config.json"),
        (TOKENIZER_CONFIG, "{", "tokenizer_config.json cannot be read"),
        (TOKENIZER, "[]", "tokenizer.json is not a JSON object"),
    ],
)
def test_a_folder_that_is_not_whole_says_which_file(
    write: Write, name: str, content: str | None, said: str
) -> None:
    folder = write("llama", ())
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(BaseModelUnreadable, match=said):
        read_base_model(folder)


def test_a_model_that_is_not_at_hand_is_guessed_as_finlora_does() -> None:
    assert guess_from_name("meta-llama/Llama-3.1-8B-Instruct").is_llama_3
    assert not guess_from_name("mistralai/Mistral-7B-v0.3").is_llama_3
