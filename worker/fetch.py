"""Fetch one base model from the hub into a folder. Run as a process of its own.

    python -m worker.fetch <org>/<model> FOLDER

Exit codes: 0 there, 3 no such model or the hub cannot be reached, 4 gated.
The folder appears whole or not at all.
"""

import shutil
import sys
from pathlib import Path

from httpx import HTTPError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

from worker.fetch_codes import GATED, NOT_FOUND

WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""Weights as safetensors only: pickled ones (*.bin, *.pt) can run code when loaded."""


def main() -> int:
    name, target = sys.argv[1], Path(sys.argv[2])
    staging = target.with_name(target.name + ".fetching")
    try:
        snapshot_download(name, local_dir=staging, allow_patterns=WANTED)
    except GatedRepoError as error:
        print(error)
        return GATED
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError) as error:
        print(error)
        return NOT_FOUND
    shutil.rmtree(staging / ".cache", ignore_errors=True)
    staging.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
