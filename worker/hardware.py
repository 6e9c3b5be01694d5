"""What this worker trains on. Asks the driver, so that torch need not be loaded."""

import os
from typing import Literal

from finlora_core.training.axolotl import Hardware


def detect(device: Literal["auto", "cpu", "cuda"]) -> Hardware:
    if device != "auto":
        return Hardware(device)
    return Hardware.CUDA if _driver_shows_gpu() else Hardware.CPU


def _driver_shows_gpu() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    import pynvml

    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount() > 0)
    except pynvml.NVMLError:
        return False
