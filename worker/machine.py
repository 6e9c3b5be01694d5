"""What a training ran on and with: for the manifest, so that it can be done again."""

import os
from collections.abc import Mapping
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


def describe_hardware(hardware: Hardware, gpu: str | None) -> Mapping[str, str]:
    """`gpu` is the UUID of the one that is trained on."""
    if hardware is Hardware.CPU:
        return {"device": f"{_cpu_name()}, {os.cpu_count()} threads"}
    return _gpu(gpu)


def _cpu_name() -> str:
    with suppress(OSError):
        for line in CPUINFO.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return os.uname().machine


def _gpu(uuid: str | None) -> Mapping[str, str]:
    """As far as the driver answers."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {"device": "a GPU"}
    try:
        found = {"device": "a GPU", "driver": str(pynvml.nvmlSystemGetDriverVersion())}
        with suppress(pynvml.NVMLError):
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid or "")
            found["device"] = str(pynvml.nvmlDeviceGetName(handle))
        return found
    finally:
        pynvml.nvmlShutdown()
