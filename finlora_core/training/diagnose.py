"""Exit code and log of a failed training -> a stable code and a hint to act on. Pure."""

import re
import signal
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

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


HINTS: Mapping[FailureCode, str] = MappingProxyType(
    {
        FailureCode.BASE_MODEL_NOT_FOUND: "The base model is neither in the models folders nor on "
        "the hub. Check its spelling, or put it into <models folder>/<org>/<model>.",
        FailureCode.BASE_MODEL_UNREADABLE: "The base model's folder is not whole. Fetch it again, "
        "or copy it from where it is whole.",
        FailureCode.NO_CHAT_TEMPLATE: "Rows of messages are written in the base model's chat "
        "template, and this model has none. Take an Instruct model, or prompt_format instruction "
        "or alpaca.",
        FailureCode.OPTIMIZER_NEEDS_GPU: "The optimizer that the run asks for needs a GPU, and "
        "this worker has none. Leave 'optimizer' out, or take one that a CPU can do.",
        FailureCode.DEEPSPEED_NOT_INSTALLED: "The run's `parallelism` is one of DeepSpeed's, which"
        " the worker lacks. Install the extra `deepspeed` there, or post with `ddp` or `fsdp`.",
        FailureCode.GATED_MODEL: "The hub gives this base model only to those who accepted its "
        "licence. Accept it on the model's page and set FINLORA_HF_TOKEN, or put the model into "
        "<models folder>/<org>/<model>.",
        FailureCode.DATASET_CHANGED: "The dataset is not the file it was when the run was "
        "posted. Post the run again to train on what is there now.",
        FailureCode.DATASET_UNREADABLE: "Axolotl could not read the dataset. Check that every "
        "line is a JSON object with the strings 'context' and 'target', and that rows stay "
        "below 4096 tokens.",
        FailureCode.TOKENIZER_MISMATCH: "The base model's tokenizer does not give back the text "
        "it was given, so it would train on something else. Check the tokenizer files.",
        FailureCode.CUDA_OUT_OF_MEMORY: "The GPU ran out of memory. Halve batch_size and double "
        "gradient_accumulation_steps (the result is the same), or set quant_bits to 8 or 4.",
        FailureCode.NCCL_ERROR: "The GPUs lost touch with each other, and did so again on every "
        "retry. Look at the machine's driver log and cabling; NCCL's own lines are in the log.",
        FailureCode.HOST_OUT_OF_MEMORY: "The machine ran out of memory. Use a smaller base model "
        "or batch_size, or quant_bits.",
        FailureCode.TRAINER_KILLED: "The training process was killed from outside, again and "
        "again, most likely because the machine ran out of memory. Look at the machine's own log; "
        "use a smaller base model or batch_size, or quant_bits.",
        FailureCode.STALLED: "The training made no step for FINLORA_STALL_SECONDS, on every "
        "retry too. Look at the GPU, or raise the limit if a step takes that long.",
        FailureCode.TIME_LIMIT_EXCEEDED: "The run reached its time_limit_seconds. Its checkpoint "
        "is kept: POST /runs/{id}/retry goes on from there, with the same limit again.",
        FailureCode.INSUFFICIENT_DISK: "There is too little free disk space to start. Free some, "
        "or lower FINLORA_MIN_FREE_DISK_MIB.",
        FailureCode.DISK_FULL: "The disk filled up during training. Free space under FINLORA_HOME "
        "and the adapters folder, then POST /runs/{id}/retry: it goes on from its checkpoint.",
        FailureCode.QUANTIZATION_NOT_APPLIED: "The run asked for a quantised base, but the loaded "
        "model has no quantised layers. This is a fault of the installation, not of the config.",
        FailureCode.PARALLELISM_NOT_APPLIED: "The GPUs do not share the training as the run asked "
        "for. This is a fault of the installation, not of the config.",
        FailureCode.LOSS_NOT_FINITE: "The loss became NaN or infinite. Lower learning_rate, "
        "typically to a tenth, and look for empty targets in the dataset.",
        FailureCode.INVALID_ADAPTER: "Training ended, but what it left is not a sound adapter.",
        FailureCode.ADAPTER_UNREADABLE: "An adapter that is needed for this cannot be read any "
        "more. Restore its files from a backup, or do without it.",
        FailureCode.NOTHING_TO_JUDGE: "Among the rows that were kept out of training is none that "
        "the run's evaluation_task can judge. Keep out more of them with val_set_size, or name a "
        "validation_dataset_path.",
        FailureCode.EVALUATION_ERROR: "The evaluation stopped with an error; the last log lines "
        "say which one.",
        FailureCode.MERGE_NOT_FAITHFUL: "The merged model does not answer as the adapter does on "
        "the base it was trained on, and was not published. Serve the adapter with an engine that "
        "takes it as it is; or merge again with limits that allow for this, or with an override "
        "and its reason.",
        FailureCode.MERGE_ERROR: "The merge stopped with an error; the last log lines say which "
        "one.",
        FailureCode.TRAINING_ERROR: "Training stopped with an error; the last log lines say "
        "which one.",
        FailureCode.WORKER_ERROR: "The worker itself failed, not the training; its log says why.",
        FailureCode.WORKER_LOST: "The worker vanished again and again while it trained this run. "
        "Look at the worker's own log and the machine's memory, then POST /runs/{id}/retry.",
    }
)

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
    hint = f"{HINTS[code]} ({detail})" if detail else HINTS[code]
    return Failure(
        code=code.value,
        hint=redact(hint),
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
