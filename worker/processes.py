"""Of a training of several processes: who speaks for all, and how they agree."""

import os
from typing import Any

import torch.distributed as dist


def is_first_process() -> bool:
    """Of a training of several processes one speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def of_first_process(*decisions: bool) -> list[bool]:
    """What the first process has decided: each for itself, they would part, and wait for ever."""
    shared: list[Any] = list(decisions)
    if dist.is_initialized():
        dist.broadcast_object_list(shared, src=0)
    return shared


def own_place() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def of_all_processes(own: Any) -> list[Any]:
    """What each of them has, in the order of their numbers."""
    if not dist.is_initialized():
        return [own]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return gathered
