"""What this worker trains on. Asks the driver, so that torch need not be loaded."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from finlora_core.training.axolotl import Hardware


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
    return Hardware.CPU if gpu_lock_name(Hardware.CUDA) is None else Hardware.CUDA


def gpu_lock_name(hardware: Hardware) -> str | None:
    """The UUID of the GPU that a training here uses: the first that CUDA may see.

    None on a CPU, and where the driver shows no such GPU. An index counts as the driver does,
    by PCI bus; CUDA counts so too when CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    if hardware is Hardware.CPU:
        return None
    return first_visible(os.environ.get("CUDA_VISIBLE_DEVICES"), list_gpus())


def first_visible(listed: str | None, gpus: Sequence[Gpu]) -> str | None:
    """What CUDA makes of CUDA_VISIBLE_DEVICES: an index, a UUID or the start of one.

    It stops at the first entry that means nothing ("" and "-1" hide every GPU).
    """
    if listed is None:
        return gpus[0].device if gpus else None
    wanted = listed.split(",")[0].strip()
    if wanted.isascii() and wanted.isdecimal():
        return gpus[int(wanted)].device if int(wanted) < len(gpus) else None
    if not wanted.startswith(("GPU-", "MIG-")):
        return None
    named = [device for uuid, device in _by_uuid(gpus) if uuid.startswith(wanted)]
    return named[0] if len(named) == 1 else None


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
