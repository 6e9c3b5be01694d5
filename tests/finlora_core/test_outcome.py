"""What a run becomes when an attempt ends."""

import pytest

from finlora_core.runs.outcome import AttemptEnd, End, Failure, RetryPolicy, Wish, next_status
from finlora_core.runs.status import TRANSITIONS, RunStatus
from finlora_core.training.diagnose import RETRIED, FailureCode, failure

POLICY = RetryPolicy(max_crashes=3, backoff=30)
BAD_DATA = failure(FailureCode.DATASET_UNREADABLE)
NCCL = failure(FailureCode.NCCL_ERROR)
LOST = failure(FailureCode.WORKER_LOST)


@pytest.mark.parametrize(
    ("end", "failure", "wish", "status"),
    [
        (End.COMPLETED, None, None, "succeeded"),
        (End.COMPLETED, None, Wish.CANCEL, "succeeded"),  # finished work beats a late wish
        (End.COMPLETED, None, Wish.PAUSE, "succeeded"),
        (End.FAILED, BAD_DATA, None, "failed"),
        (End.FAILED, BAD_DATA, Wish.CANCEL, "cancelled"),
        (End.FAILED, BAD_DATA, Wish.PAUSE, "failed"),
        (End.FAILED, NCCL, None, "queued"),
        (End.FAILED, NCCL, Wish.CANCEL, "cancelled"),
        (End.FAILED, NCCL, Wish.PAUSE, "paused"),
        (End.STOPPED, None, Wish.CANCEL, "cancelled"),
        (End.STOPPED, None, Wish.PAUSE, "paused"),
        (End.DRAINED, None, None, "queued"),
        (End.DRAINED, None, Wish.CANCEL, "cancelled"),
        (End.DRAINED, None, Wish.PAUSE, "paused"),
        (End.LOST, LOST, None, "queued"),
        (End.LOST, LOST, Wish.CANCEL, "cancelled"),
        (End.LOST, LOST, Wish.PAUSE, "paused"),
    ],
)
def test_what_an_attempt_showed_decides_the_runs_status(
    end: End, failure: Failure | None, wish: Wish | None, status: str
) -> None:
    attempt = AttemptEnd(end=end, failure=failure)
    assert next_status(attempt, wish=wish, crashes=1, policy=POLICY) == status


@pytest.mark.parametrize("end", End)
@pytest.mark.parametrize("wish", [None, *Wish])
def test_no_attempt_leaves_a_run_running(end: End, wish: Wish | None) -> None:
    attempt = AttemptEnd(end=end, failure=BAD_DATA if end is End.FAILED else None)
    after = next_status(attempt, wish=wish, crashes=1, policy=POLICY)
    assert after in TRANSITIONS[RunStatus.RUNNING]


@pytest.mark.parametrize("failure", [NCCL, LOST], ids=["nccl", "lost"])
@pytest.mark.parametrize(
    ("wish", "crashes", "status"),
    [
        (None, 2, "queued"),
        (None, 3, "failed"),
        (None, 4, "failed"),
        (Wish.PAUSE, 3, "failed"),
        (Wish.CANCEL, 3, "cancelled"),
    ],
)
def test_a_run_that_crashes_is_tried_again_until_it_has_crashed_too_often(
    failure: Failure, wish: Wish | None, crashes: int, status: str
) -> None:
    attempt = AttemptEnd(end=End.FAILED, failure=failure)
    assert next_status(attempt, wish=wish, crashes=crashes, policy=POLICY) == status


@pytest.mark.parametrize("code", FailureCode)
def test_only_what_may_go_away_by_itself_is_retried(code: FailureCode) -> None:
    expected = {"nccl_error", "stalled", "trainer_killed", "worker_lost"}
    assert (code.value in expected) == (code in RETRIED) == failure(code).is_retried


def test_retries_wait_longer_each_time_and_never_more_than_an_hour() -> None:
    assert [POLICY.delay(crashes) for crashes in (0, 1, 2, 3, 4, 60)] == [0, 0, 30, 90, 210, 3600]
