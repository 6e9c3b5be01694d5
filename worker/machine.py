"""What a training ran on and with: for the manifest, so that it can be done again."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from finlora_core.training.axolotl import Hardware

PACKAGES = ("finlora-service", "axolotl", "bitsandbytes", "peft", "torch", "transformers")

CPUINFO = Path("/proc/cpuinfo")


def packages() -> Mapping[str, str]:
    """Versions, of those that are installed; the trainer runs in this environment too."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def describe_hardware(hardware: Hardware, gpus: Sequence[str]) -> Mapping[str, str]:
    """`gpus` are the UUIDs of those that are trained on."""
    if hardware is Hardware.CPU:
        return {"device": f"{_cpu_name()}, {os.cpu_count()} threads"}
    return _gpu(gpus[0] if gpus else "") | ({"gpus": str(len(gpus))} if len(gpus) > 1 else {})


def _cpu_name() -> str:
    with suppress(OSError):
        for line in CPUINFO.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return os.uname().machine


def _gpu(uuid: str) -> dict[str, str]:
    """As far as the driver answers."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {"device": "a GPU"}
    try:
        found = {"device": "a GPU", "driver": str(pynvml.nvmlSystemGetDriverVersion())}
        with suppress(pynvml.NVMLError):
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            found["device"] = str(pynvml.nvmlDeviceGetName(handle))
        return found
    finally:
        pynvml.nvmlShutdown()
