"""What the worker asks of the process that merges. It lies in the attempt's folder; what comes
back is in its completion marker: `finlora_core.merging.fidelity.Fidelity`."""

from pathlib import Path
from typing import Literal

from finlora_core.evaluation.sets import Given
from finlora_core.runs.config import PromptFormat
from finlora_core.training.axolotl import Hardware
from worker.errand import Shape


class MergeErrand(Shape):
    base: Path
    adapter: Path
    quant_bits: Literal[4, 8] | None
    """In which the base was while the adapter was trained."""
    hardware: Hardware
    form: PromptFormat
    rows: tuple[tuple[Given, str], ...]
    """What is given, and what is answered: the merged model is measured on both."""
