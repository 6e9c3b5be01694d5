"""Fetch one base model from the hub into a folder. Run as a process of its own.

    python -m worker.fetch <org>/<model> FOLDER

Exit codes: 0 there, 3 no such model or the hub cannot be reached, 4 gated,
5 the disk is full.
The folder appears whole or not at all.
"""

import errno
import fcntl
import sys
from pathlib import Path

from httpx import HTTPError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

from finlora_core.redact import redact
from worker.fetch_codes import FULL, GATED, NOT_FOUND

WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"]
"""Weights as safetensors only: pickled ones (*.bin, *.pt) can run code when loaded."""


def main() -> int:
    name, target = sys.argv[1], Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two workers with one home, the second waits
        return 0 if target.is_dir() else fetch(name, target)


def fetch(name: str, target: Path) -> int:
    staging = target.with_name(f"{target.name}.fetching")
    try:
        snapshot_download(name, local_dir=staging, allow_patterns=WANTED)
    except GatedRepoError as error:
        print(redact(str(error)))  # it quotes the hub's URL, which may hold a password
        return GATED
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError) as error:
        print(redact(str(error)))
        is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        return FULL if is_full else NOT_FOUND
    staging.rename(target)  # with what the hub's client has noted: the commit of each file
    return 0


if __name__ == "__main__":
    sys.exit(main())
