"""From what a failed process left behind to a code and the lines that matter."""

import pytest

from finlora_core.training.diagnose import (
    LOG_TAIL_LINES,
    FailureCode,
    diagnose,
    failure,
    last_lines,
)

TOKEN = "hf_" + "a1B2" * 8


@pytest.mark.parametrize(
    ("exit_code", "log", "code"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "cuda_out_of"),
        (1, "torch.cuda.OutOfMemoryError: HIP", "cuda_out_of"),
        (1, "RuntimeError: CUDA out of memory. Tried", "cuda_out_of"),
        (1, "OSError: [Errno 28] No space left on device", "disk_full"),
        (1, "RuntimeError: unexpected pos\nOSError: [Errno 28]", "disk_full"),
        (1, "Traceback\n  File\nMemoryError", "host_out_of"),
        (1, "OSError: [Errno 12] Cannot allocate memory", "host_out_of"),
        (1, "DefaultCPUAllocator: can't allocate memory", "host_out_of"),
        (
            1,
            "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes",
            "host_out_of",
        ),
        (-9, "step 5", "trainer_killed"),
        (137, "step 5", "trainer_killed"),
        (137, "", "trainer_killed"),
        (3, "huggingface_hub.errors.GatedRepoError: 403 Client Error", "gated_model"),
        (1, "Access to model meta-llama/Llama-3.1-8B is restricted", "gated_model"),
        (1, "huggingface_hub.errors.RepositoryNotFoundError: 404", "base_model_not_found"),
        (1, "OSError: x/y is not a valid model identifier listed on", "base_model_not_found"),
        (1, "Error no file named model.safetensors found in", "base_model_not_found"),
        (1, "x does not appear to have a file named config.json", "base_model_not_found"),
        (1, "datasets.exceptions.DatasetGenerationError: An error", "dataset_unreadable"),
        (1, "pyarrow.lib.ArrowInvalid: JSON parse error", "dataset_unreadable"),
        (1, "KeyError: 'context'", "dataset_unreadable"),
        (1, "KeyError: 'target'", "dataset_unreadable"),
        (1, "json.decoder.JSONDecodeError: Expecting value", "dataset_unreadable"),
        (1, "ValueError: num_samples should be positive, but got num_samples=0", "dataset_unread"),
        (1, "ValueError: Dataset is empty", "dataset_unreadable"),
        (1, "KeyError: 'other'", "training_error"),
        (1, "class MyMemoryError(Exception)", "training_error"),
        (1, "", "training_error"),
        (0, "saved", "training_error"),  # exit code 0 without the marker is no success
        (143, "terminated", "trainer_killed"),
        (-15, "terminated", "trainer_killed"),
        (130, "KeyboardInterrupt", "trainer_killed"),
        (129, "", "trainer_killed"),
        (139, "Fatal Python error: Segmentation fault", "training_error"),
        (134, "terminate called after throwing", "training_error"),
        # what the log says counts more than how the process ended
        (1, "torch.distributed.DistBackendError: NCCL error in: x.cpp:1", "nccl_error"),
        (-6, "Watchdog caught collective operation timeout: WorkNCCL(", "nccl_error"),
        (137, "torch.OutOfMemoryError: CUDA out of memory", "cuda_out_of"),
        (1, "KeyError: 'context'\nOSError: No space left on device", "disk_full"),
    ],
)
def test_an_exit_code_and_a_log_are_told_apart(exit_code: int, log: str, code: str) -> None:
    found = diagnose(exit_code, log)
    assert found.code.startswith(code)
    assert (found.detail, found.log_tail) == ("", log)


def test_no_secret_gets_into_a_detail_or_a_log_tail() -> None:
    found = failure(FailureCode.WORKER_ERROR, f"401 for {TOKEN}", f"Bearer {TOKEN}")
    assert TOKEN not in found.detail + found.log_tail
    assert found.log_tail == "401 for [redacted]"


def test_a_diagnosis_shows_no_secret_either() -> None:
    assert TOKEN not in repr(diagnose(1, f"GatedRepoError: {TOKEN}"))


def test_only_the_last_lines_that_say_something_are_kept() -> None:
    lines = [f"line {number}" for number in range(LOG_TAIL_LINES + 10)]
    assert last_lines("\n \n".join(lines) + "\n\n").splitlines() == lines[-LOG_TAIL_LINES:]


def test_a_long_line_is_cut() -> None:
    assert last_lines("x" * 501 + "\ny") == "x" * 500 + "\ny"


def test_a_secret_is_found_before_its_line_is_cut() -> None:
    assert "hf_" not in last_lines("x" * 490 + TOKEN)


def test_redrawn_progress_bars_push_nothing_out() -> None:
    bars = "\r".join(f"{n}%|###   | {n}/100 [00:05<00:45, 2.20it/s]" for n in range(100))
    assert last_lines(f"Error: the cause\n{bars}\nbye") == "Error: the cause\nbye"


@pytest.mark.parametrize("log", ["", "\n\n", " \r\n\t"])
def test_a_silent_process_has_an_empty_tail(log: str) -> None:
    assert last_lines(log) == ""
