"""Look at a model amid its training, and leave no trace."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch

Evaluate = Callable[..., Any]


@contextmanager
def set_training_aside(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout and gradients, in the precision of the training. Afterwards the random
    state, each module's mode and what is trained are as they were."""
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    # not inference_mode: what a module keeps of it could not be trained through
    without_trace = torch.random.fork_rng(devices=devices)
    with without_trace, torch.no_grad(), _evaluating(model), _precision(device):
        yield


def without_a_draw(evaluate: Evaluate) -> Evaluate:
    """An evaluation that leaves the random state as it was: whoever is asked to stop skips the one
    that is due, and must go on as if there had been it."""

    @wraps(evaluate)
    def evaluated(*args: Any, **how: Any) -> Any:
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            return evaluate(*args, **how)

    return evaluated


def _precision(device: torch.device) -> Any:
    """On a GPU layers may be of mixed precision, which autocast reconciles."""
    if device.type != "cuda":
        return nullcontext()
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast(device.type, dtype=dtype)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    trained = [(weight, weight.requires_grad) for weight in model.parameters()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, requires_grad in trained:
            if weight.requires_grad != requires_grad:  # switching the adapter on sets it
                weight.requires_grad_(requires_grad)
