"""What a run becomes when an attempt ends, and when a worker is lost."""

import pytest

from finlora_core.runs.outcome import End, next_status, status_after_loss
from finlora_core.runs.status import TRANSITIONS, RunStatus


@pytest.mark.parametrize(
    ("end", "cancel_requested", "status"),
    [
        (End.COMPLETED, False, "succeeded"),
        (End.COMPLETED, True, "succeeded"),  # finished work beats a late wish
        (End.FAILED, False, "failed"),
        (End.FAILED, True, "cancelled"),
        (End.STOPPED, True, "cancelled"),
        (End.DRAINED, False, "queued"),
        (End.DRAINED, True, "cancelled"),
    ],
)
def test_what_an_attempt_showed_decides_the_runs_status(
    end: End, cancel_requested: bool, status: str
) -> None:
    assert next_status(end, cancel_requested=cancel_requested) == status


@pytest.mark.parametrize("end", End)
@pytest.mark.parametrize("cancel_requested", [False, True])
def test_no_attempt_leaves_a_run_running(end: End, cancel_requested: bool) -> None:
    after = next_status(end, cancel_requested=cancel_requested)
    assert after in TRANSITIONS[RunStatus.RUNNING]


@pytest.mark.parametrize(
    ("cancel_requested", "crashes", "max_crashes", "status"),
    [
        (False, 1, 3, "queued"),
        (False, 2, 3, "queued"),
        (False, 3, 3, "failed"),
        (False, 4, 3, "failed"),
        (False, 1, 1, "failed"),
        (True, 1, 3, "cancelled"),
        (True, 3, 3, "cancelled"),
    ],
)
def test_a_run_that_loses_its_worker_tries_again_until_it_has_lost_too_many(
    cancel_requested: bool, crashes: int, max_crashes: int, status: str
) -> None:
    after = status_after_loss(
        cancel_requested=cancel_requested, crashes=crashes, max_crashes=max_crashes
    )
    assert after == status
