"""How training is launched: Axolotl in one cold process, or in one for each GPU."""

import sys
from collections.abc import Sequence

from finlora_core.training.files import AttemptFiles


def axolotl_command(files: AttemptFiles, processes: int) -> Sequence[str]:
    """`processes` of this machine, one a device, which find each other on a port of their own."""
    if processes == 1:
        train = [sys.executable, "-m", "axolotl.cli.main", "train"]
        return [*train, str(files.config), "--launcher", "python"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ranks = ["--nproc-per-node", str(processes)]
    return [*torchrun, *ranks, "-m", "axolotl.cli.train", str(files.config)]
