"""The environment of the processes that touch models and data: built from nothing.

Assume that a base model or a dataset can take over the process that reads it. So it
sees no database URL, no broker and no token; only the fetching step sees the hub's.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from finlora_core.settings import Settings
from finlora_core.training.checkpoints import CHECKPOINT_SECONDS
from finlora_core.training.files import ATTEMPT_DIR, AttemptFiles

_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "TZ",
    "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)  # fmt: skip

_FETCHING_PASSES_ON = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE")


def trainer_environment(
    files: AttemptFiles, temporary: str, *, checkpoint_seconds: float, gpus: Sequence[str] = ()
) -> Mapping[str, str]:
    """Offline, without telemetry, every cache inside the attempt's folder.

    `temporary` must be short: sockets are made in it, whose paths end at 107 bytes. `gpus` are
    the UUIDs that CUDA is to see: of more, transformers would spread one process over all.
    """
    return {
        **_base(files),
        "TMPDIR": temporary,
        **({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}),
        CHECKPOINT_SECONDS: str(checkpoint_seconds),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",  # progress comes from the plugin; bars would fill the log
        "NCCL_DEBUG": "WARN",
    }


def fetch_environment(files: AttemptFiles, settings: Settings) -> Mapping[str, str]:
    """The one environment that holds the hub's token."""
    token = settings.hf_token
    return {
        **_base(files),
        **_from_outside(_FETCHING_PASSES_ON),
        **({"HF_TOKEN": token.get_secret_value().strip()} if token else {}),
        **({"HF_ENDPOINT": settings.hf_endpoint} if settings.hf_endpoint else {}),
    }


def playground_environment(settings: Settings, gpus: Sequence[str]) -> Mapping[str, str]:
    """Offline, with those settings alone that the playground needs: none is a secret."""
    own = (
        "HOME",
        "DEVICE",
        "PLAYGROUND_SOCKET",
        "PLAYGROUND_WAIT_SECONDS",
        "PLAYGROUND_IDLE_SECONDS",
    )
    values = settings.environment()
    return {
        **_bare(settings.home / "playground" / "cache"),
        **{f"FINLORA_{name}": values[f"FINLORA_{name}"] for name in own},
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }


def _base(files: AttemptFiles) -> dict[str, str]:
    return {
        ATTEMPT_DIR: str(files.root),  # also what a process is found by (worker.survivors)
        **_bare(files.cache),
    }


def _bare(cache: Path) -> dict[str, str]:
    return {
        **_from_outside(_PASSED_ON),
        "HOME": str(cache),
        "HF_HOME": str(cache / "huggingface"),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "AXOLOTL_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # threads that spin while they wait take busy cores from those that compute: seen 25 times
        # slower beside other work, with the same results
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def _from_outside(names: tuple[str, ...]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
