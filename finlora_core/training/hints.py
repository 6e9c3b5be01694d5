"""What a person can do about a failure: of a training, an evaluation, a merge. Pure."""

from collections.abc import Mapping
from types import MappingProxyType

from finlora_core.runs.kind import RunKind
from finlora_core.runs.outcome import Failure
from finlora_core.training.diagnose import FailureCode

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
        FailureCode.QUANTIZATION_NOT_APPLIED: "A quantised base was asked for, but the loaded "
        "model has no quantised layers. This is a fault of the installation, not of the config.",
        FailureCode.PARALLELISM_NOT_APPLIED: "The GPUs do not share the training as the run asked "
        "for. This is a fault of the installation, not of the config.",
        FailureCode.LOSS_NOT_FINITE: "The loss became NaN or infinite. Lower learning_rate, "
        "typically to a tenth, and look for empty targets in the dataset.",
        FailureCode.INVALID_ADAPTER: "Training ended, but what it left is not a sound adapter.",
        FailureCode.ADAPTER_UNREADABLE: "An adapter that is needed for this cannot be read any "
        "more. Restore its files from a backup, or do without it.",
        FailureCode.ADDED_TOKENS: "An adapter brings embeddings for tokens that its base does not "
        "have, and cannot be loaded onto it here. Merge it where it was made, put the merged "
        "model into <models folder>/<org>/<model>, and name that as base_model.",
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
        FailureCode.WORKER_ERROR: "The worker itself failed, not what it worked on; its log "
        "says why.",
        FailureCode.WORKER_LOST: "The worker vanished again and again while it trained this run. "
        "Look at the worker's own log and the machine's memory, then POST /runs/{id}/retry.",
    }
)


def _begun_anew(word: str) -> Mapping[FailureCode, str]:
    """Of what leaves no checkpoint to go on from."""
    return {
        FailureCode.TRAINER_KILLED: f"The {word}'s process was killed from outside, again and "
        "again, most likely because the machine ran out of memory. Look at the machine's own log, "
        "and post it again where there is more memory.",
        FailureCode.STALLED: f"The {word} got no further for FINLORA_STALL_SECONDS, on every "
        "retry too. Look at the GPU, or raise the limit if a step takes that long.",
        FailureCode.TIME_LIMIT_EXCEEDED: f"The {word} reached its time_limit_seconds. Nothing of "
        "it is kept: post it again with a longer limit.",
        FailureCode.DISK_FULL: f"The disk filled up during the {word}. Free space under "
        "FINLORA_HOME and in the adapters folder, then post it again: it begins anew.",
        FailureCode.WORKER_LOST: f"The worker vanished again and again during the {word}. Look at "
        "the worker's own log and the machine's memory, then post it again: it begins anew.",
    }


OWN_HINTS: Mapping[RunKind, Mapping[FailureCode, str]] = MappingProxyType(
    {
        RunKind.TRAINING: {},
        RunKind.EVALUATION: {
            **_begun_anew("evaluation"),
            FailureCode.NO_CHAT_TEMPLATE: "Rows of messages are put in the base model's chat "
            "template, and this model has none. Take an Instruct model, or rows of another form.",
            FailureCode.DATASET_CHANGED: "A set is not what it was when the evaluation was "
            "posted. Post it again to judge on what is there now.",
            FailureCode.DATASET_UNREADABLE: "A set cannot be read any more. Put its file back, "
            "every line a JSON object with a target, and post the evaluation again.",
            FailureCode.CUDA_OUT_OF_MEMORY: "The GPU ran out of memory. Post the evaluation again "
            "with half the batch_size: it begins anew.",
            FailureCode.HOST_OUT_OF_MEMORY: "The machine ran out of memory. Post the evaluation "
            "again with half the batch_size, or judge where there is more memory.",
        },
        RunKind.MERGE: {
            **_begun_anew("merge"),
            FailureCode.NO_CHAT_TEMPLATE: "The rows to measure on are messages, and the base "
            "model has no chat template. Post the merge again with a dataset_path of other rows.",
            FailureCode.DATASET_CHANGED: "The rows to measure on are not what they were when the "
            "merge was posted. Post it again to measure on what is there now.",
            FailureCode.DATASET_UNREADABLE: "The rows to measure on cannot be read any more. Put "
            "their file back, or post the merge again with another dataset_path.",
            FailureCode.CUDA_OUT_OF_MEMORY: "The GPU ran out of memory: it must hold the whole "
            "base in 16 bits. Merge on a larger one, or with a worker on the CPU "
            "(FINLORA_DEVICE=cpu).",
            FailureCode.HOST_OUT_OF_MEMORY: "The machine ran out of memory: it must hold the "
            "whole base, on a CPU in 32 bits. Merge where there is more memory.",
        },
    }
)
"""Where what helps a training does not help, or is not what happened."""


def hint_of(failure: Failure, kind: RunKind) -> str:
    """For the failure of a run of this kind."""
    code = FailureCode(failure.code)
    hint = OWN_HINTS[kind].get(code, HINTS[code])
    return f"{hint} ({failure.detail})" if failure.detail else hint
