"""Exit code and log of a failed process -> a stable code; `hints` says what to do. Pure."""

import re
import signal
from enum import StrEnum

from finlora_core.redact import redact
from finlora_core.runs.outcome import Failure

LOG_TAIL_LINES = 30

_BAR = re.compile(r"[\d?][kMG]?(it/s|s/it|B/s)[],]")
"""tqdm's way to end a progress bar."""


class FailureCode(StrEnum):
    """Why a run failed; the values are part of the API (docs/errors.md)."""

    BASE_MODEL_NOT_FOUND = "base_model_not_found"
    BASE_MODEL_UNREADABLE = "base_model_unreadable"
    NO_CHAT_TEMPLATE = "no_chat_template"
    OPTIMIZER_NEEDS_GPU = "optimizer_needs_gpu"
    DEEPSPEED_NOT_INSTALLED = "deepspeed_not_installed"
    GATED_MODEL = "gated_model"
    DATASET_CHANGED = "dataset_changed"
    DATASET_UNREADABLE = "dataset_unreadable"
    TOKENIZER_MISMATCH = "tokenizer_mismatch"
    CUDA_OUT_OF_MEMORY = "cuda_out_of_memory"
    NCCL_ERROR = "nccl_error"
    HOST_OUT_OF_MEMORY = "host_out_of_memory"
    TRAINER_KILLED = "trainer_killed"
    STALLED = "stalled"
    TIME_LIMIT_EXCEEDED = "time_limit_exceeded"
    INSUFFICIENT_DISK = "insufficient_disk"
    DISK_FULL = "disk_full"
    QUANTIZATION_NOT_APPLIED = "quantization_not_applied"
    PARALLELISM_NOT_APPLIED = "parallelism_not_applied"
    LOSS_NOT_FINITE = "loss_not_finite"
    NOTHING_TO_JUDGE = "nothing_to_judge"
    INVALID_ADAPTER = "invalid_adapter"
    ADAPTER_UNREADABLE = "adapter_unreadable"
    ADDED_TOKENS = "added_tokens"
    EVALUATION_ERROR = "evaluation_error"
    MERGE_NOT_FAITHFUL = "merge_not_faithful"
    MERGE_ERROR = "merge_error"
    TRAINING_ERROR = "training_error"
    WORKER_ERROR = "worker_error"
    WORKER_LOST = "worker_lost"


RETRIED = frozenset(
    {
        FailureCode.NCCL_ERROR,
        FailureCode.STALLED,
        FailureCode.TRAINER_KILLED,
        FailureCode.WORKER_LOST,
    }
)
"""What may go away by itself. Everything else would only fail again."""


_FROM_OUTSIDE = (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM)
"""Signals that a process does not raise by its own fault, as it does SIGSEGV or SIGABRT."""

_PATTERNS: tuple[tuple[str, FailureCode], ...] = (
    (r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError", FailureCode.CUDA_OUT_OF_MEMORY),
    (r"No space left on device|Errno 28", FailureCode.DISK_FULL),
    (
        r"NCCL error|ncclUnhandledCudaError|ncclSystemError|ncclInternalError|ncclRemoteError"
        r"|DistBackendError|Watchdog caught collective operation timeout",
        FailureCode.NCCL_ERROR,
    ),
    (
        r"^MemoryError|Cannot allocate memory|can't allocate memory|not enough memory: you tried",
        FailureCode.HOST_OUT_OF_MEMORY,
    ),
    (r"GatedRepoError|Access to model .* is restricted", FailureCode.GATED_MODEL),
    (
        r"RepositoryNotFoundError|is not a valid model identifier"
        r"|Error no file named .*safetensors|does not appear to have a file named",
        FailureCode.BASE_MODEL_NOT_FOUND,
    ),
    (
        r"DatasetGenerationError|ArrowInvalid|KeyError: '(context|target)'|JSONDecodeError"
        r"|num_samples=0|[Dd]ataset is empty",
        FailureCode.DATASET_UNREADABLE,
    ),
)


def diagnose(
    exit_code: int, log_tail: str, otherwise: FailureCode = FailureCode.TRAINING_ERROR
) -> Failure:
    """What made a process end without its completion marker; `otherwise` where nothing tells.

    `exit_code` as subprocess gives it: negative for a signal, 137 for a killed child.
    """
    return failure(_code(exit_code, log_tail, otherwise), log_tail)


def failure(code: FailureCode, log_tail: str = "", detail: str = "") -> Failure:
    return Failure(
        code=code.value,
        detail=redact(detail),
        log_tail=last_lines(log_tail),
        is_retried=code in RETRIED,
    )


def last_lines(log: str) -> str:
    """The last lines that say something, redacted; redrawn progress bars are left out."""
    lines = [line for line in redact(log).splitlines() if line.strip() and not _BAR.search(line)]
    return "\n".join(line[:500] for line in lines[-LOG_TAIL_LINES:])


def _code(exit_code: int, log: str, otherwise: FailureCode) -> FailureCode:
    for pattern, code in _PATTERNS:
        if re.search(pattern, log, re.MULTILINE):
            return code
    killed_by = -exit_code if exit_code < 0 else exit_code - 128
    from_outside = killed_by in _FROM_OUTSIDE
    return FailureCode.TRAINER_KILLED if from_outside else otherwise
