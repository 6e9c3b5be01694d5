"""How training is launched: Axolotl in one cold process."""

import sys
from collections.abc import Sequence

from finlora_core.training.files import AttemptFiles


def axolotl_command(files: AttemptFiles) -> Sequence[str]:
    """One process on one device: the `python` launcher, not accelerate."""
    train = [sys.executable, "-m", "axolotl.cli.main", "train"]
    return [*train, str(files.config), "--launcher", "python"]
