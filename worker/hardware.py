"""What this worker trains on. Asks the driver, so that torch need not be loaded."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

from finlora_core.training.axolotl import Hardware

PART = "MIG-"
"""What the UUID of a part of a GPU begins with."""


@dataclass(frozen=True)
class Gpu:
    """One that the driver shows."""

    uuid: str
    instances: tuple[str, ...] = ()
    """UUIDs of the MIG devices it is cut into. CUDA then takes one of these, never the whole."""

    @property
    def device(self) -> str:
        return self.instances[0] if self.instances else self.uuid


def detect(device: Literal["auto", "cpu", "cuda"]) -> Hardware:
    if device != "auto":
        return Hardware(device)
    return Hardware.CUDA if gpus_of(Hardware.CUDA) else Hardware.CPU


def gpus_of(hardware: Hardware) -> Sequence[str]:
    """The UUIDs of the GPUs that trainings here may use: those that CUDA may see.

    None on a CPU, and where the driver shows no such GPU. An index counts as the driver does,
    by PCI bus; CUDA counts so too when CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    if hardware is Hardware.CPU:
        return ()
    return visible(os.environ.get("CUDA_VISIBLE_DEVICES"), list_gpus())


def visible(listed: str | None, gpus: Sequence[Gpu]) -> Sequence[str]:
    """What CUDA makes of CUDA_VISIBLE_DEVICES: indices, UUIDs or the starts of such.

    It stops at the first entry that means nothing ("" and "-1" hide every GPU), and takes one
    part of a GPU that is cut up only by itself.
    """
    if listed is None:
        found = [gpu.device for gpu in gpus]
    else:
        named = (_named(entry.strip(), gpus) for entry in listed.split(","))
        found = list(dict.fromkeys(takewhile(bool, named)))
    if found and found[0].startswith(PART):
        return found[:1]
    return [device for device in found if not device.startswith(PART)]


def _named(wanted: str, gpus: Sequence[Gpu]) -> str:
    """The device that one entry means; empty when it means none, or several."""
    if wanted.isascii() and wanted.isdecimal():
        return gpus[int(wanted)].device if int(wanted) < len(gpus) else ""
    if not wanted.startswith(("GPU-", PART)):
        return ""
    named = [device for uuid, device in _by_uuid(gpus) if uuid.startswith(wanted)]
    return named[0] if len(named) == 1 else ""


def _by_uuid(gpus: Sequence[Gpu]) -> Iterator[tuple[str, str]]:
    """Every UUID there is, and the device that naming it gives."""
    for gpu in gpus:
        yield gpu.uuid, gpu.device
        for instance in gpu.instances:
            yield instance, instance


def list_gpus() -> Sequence[Gpu]:
    """In the driver's order, without those that do not answer; none without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return [gpu for index in range(pynvml.nvmlDeviceGetCount()) for gpu in _gpu(index)]
    finally:
        pynvml.nvmlShutdown()


def memory_of(gpus: Sequence[str]) -> int | None:
    """Bytes that the smallest of these GPUs has; None without one, or when it does not say."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByUUID(gpu) for gpu in gpus]
        return min((int(pynvml.nvmlDeviceGetMemoryInfo(it).total) for it in handles), default=None)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> Iterator[Gpu]:
    import pynvml

    with suppress(pynvml.NVMLError):  # it has fallen off the bus: CUDA does not count it either
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        yield Gpu(pynvml.nvmlDeviceGetUUID(handle), tuple(_instances(handle)))


def _instances(handle: Any) -> Iterator[str]:
    import pynvml

    with suppress(pynvml.NVMLError):  # no MIG in this model of GPU
        for slot in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with suppress(pynvml.NVMLError):  # an empty slot
                instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)
                yield pynvml.nvmlDeviceGetUUID(instance)
