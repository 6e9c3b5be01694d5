"""Mends for quantised layers on a CPU, where bitsandbytes and PEFT go wrong without a word."""

from typing import Any

import torch


def keep_4bit_unpacked(model: torch.nn.Module) -> None:
    """Mend 4-bit layers on CPUs with AVX512-BF16.

    There bitsandbytes repacks the weights of a 4-bit layer on its first forward pass in
    evaluation mode. The packed form has no backward pass: Axolotl evaluates before the first
    step, after which every gradient is zero and nothing is learnt, silently. And PEFT takes it
    for the plain one: the norms of a 4-bit DoRA are then those of shuffled weights.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def keep_int8_scales() -> None:
    """Mend 8-bit DoRA on a CPU.

    PEFT moves the dequantised weight with `.to("cpu")`, which drops its scales (SCB);
    bitsandbytes then overwrites the good ones it keeps in its state with None, and the
    second forward pass fails. CUDA does not take that path.
    """
    from bitsandbytes.nn import Linear8bitLt

    original = Linear8bitLt.init_8bit_state

    def init_8bit_state(layer: Any) -> None:
        scales = layer.state.SCB
        original(layer)
        if layer.state.SCB is None:
            layer.state.SCB = scales

    Linear8bitLt.init_8bit_state = init_8bit_state
