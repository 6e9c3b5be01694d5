"""What the service promises when its processes are killed, proven by killing them."""

import pytest

from tests.chaos.harness import Order, Outcome, run

KILLS = 100


@pytest.mark.timeout(240)
@pytest.mark.parametrize("db", ["sqlite", "postgres"])
def test_no_accepted_run_is_lost_or_trained_twice_at_once_however_much_is_killed(db: str) -> None:
    outcome = run(Order(kills=KILLS, seed=1, db=db), print)
    assert outcome.passed, f"{outcome.verdict}\nlogs: {outcome.folder}"
    assert_it_was_not_idle(outcome)


def assert_it_was_not_idle(outcome: Outcome) -> None:
    """A service without work, or one whose trainings were never hit, would pass everything."""
    summary = outcome.summary()
    assert summary["recoveries"] > 0, summary
    assert summary["succeeded"] > 0, summary
    assert {"kill worker", "kill guard", "kill trainer"} <= summary["faults"].keys()
