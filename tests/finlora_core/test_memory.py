"""The memory of a training, against a sum made by hand."""

from finlora_core.runs.config import RunConfig
from finlora_core.training.memory import (
    HEADROOM,
    ModelShape,
    fits_uncheckpointed,
    training_bytes,
)
from tests.support import make_config

LLAMA_8B = ModelShape(
    layers=32,
    hidden=4096,
    intermediate=14336,
    key_value=1024,
    vocabulary=128_256,
    parameters=8_030_000_000,
)


def one_row(**keys: object) -> RunConfig:
    return make_config(batch_size=1, sequence_len=4096, **keys)


def test_a_llama_of_8_billion_in_4_bits_with_one_row_of_4096_tokens() -> None:
    weights = int(8_030_000_000 * 0.6)
    one_layer_a_token = 2 * (6 * 4096 + 2 * 1024 + 4 * 14336) + 8 * 4096  # 200,704 bytes
    logits = 4096 * 128_256 * 12
    expected = weights + 4096 * 32 * one_layer_a_token + logits
    assert training_bytes(LLAMA_8B, one_row(quant_bits=4)) == expected


def test_more_bits_and_more_rows_take_more() -> None:
    sizes = [training_bytes(LLAMA_8B, one_row(quant_bits=bits)) for bits in (4, 8, None)]
    assert sizes == sorted(sizes)
    twice = make_config(batch_size=2, sequence_len=4096, quant_bits=4)
    assert training_bytes(LLAMA_8B, twice) > sizes[0]


def test_room_is_left_for_what_the_estimate_leaves_out() -> None:
    config = one_row(quant_bits=4)
    needed = training_bytes(LLAMA_8B, config)
    assert not fits_uncheckpointed(LLAMA_8B, config, needed)
    assert fits_uncheckpointed(LLAMA_8B, config, int(needed / HEADROOM) + 1)
