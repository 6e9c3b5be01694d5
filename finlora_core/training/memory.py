"""How much GPU memory a training takes, estimated before it begins. Pure."""

from dataclasses import dataclass

from finlora_core.runs.config import RunConfig

HEADROOM = 0.7
"""Share of a GPU's memory that the estimate may fill: CUDA itself, its allocator's gaps, the
adapter's optimizer and what is gathered for a moment need the rest."""

BYTES_A_WEIGHT = {4: 0.6, 8: 1.1, None: 2.0}
"""Of the frozen base. 4 and 8 bits with their scales, and with the embeddings in 16."""

BYTES_A_LOGIT = 12
"""float32, three times: the logits, their softmax, and the gradient."""


@dataclass(frozen=True)
class ModelShape:
    """Of a decoder with gated feed-forward layers: widths in numbers, not bytes."""

    layers: int
    hidden: int
    intermediate: int
    key_value: int
    """Of all key heads together."""
    vocabulary: int
    parameters: int


def training_bytes(shape: ModelShape, config: RunConfig) -> int:
    """On each GPU, with every layer's activations kept for the backward pass."""
    tokens = config.batch_size * config.sequence_len
    weights = shape.parameters * BYTES_A_WEIGHT[config.quant_bits]
    logits = tokens * shape.vocabulary * BYTES_A_LOGIT
    return int(weights + tokens * shape.layers * _bytes_a_token(shape) + logits)


def fits_uncheckpointed(shape: ModelShape, config: RunConfig, gpu_bytes: int) -> bool:
    """Whether a GPU of this size can keep what gradient checkpointing would compute again."""
    return training_bytes(shape, config) <= HEADROOM * gpu_bytes


def _bytes_a_token(shape: ModelShape) -> int:
    """That one layer keeps: in 16 bits both norms' inputs and outputs, queries, keys, values,
    attention's output, the four of the gated layer; both norms' inputs once more in 32."""
    kept = 6 * shape.hidden + 2 * shape.key_value + 4 * shape.intermediate
    return 2 * kept + 2 * 4 * shape.hidden
