"""From the base model's name in a run config to a folder on this machine.

First the models folders, then a copy fetched earlier, then the hub. Fetching happens in
a process of its own (worker.fetch): only that one sees the hub's token.
"""

from collections.abc import Sequence
from pathlib import Path

from finlora_core.settings import Settings
from finlora_core.training.base_model import find_base_model


def find_local(name: str, settings: Settings) -> Path | None:
    """The model's folder when it is at hand."""
    return find_base_model(name, (*settings.models, settings.fetched_models))


def fetch_command(python: str, name: str, settings: Settings) -> Sequence[str]:
    return [python, "-m", "worker.fetch", name, str(settings.fetched_models / name)]
