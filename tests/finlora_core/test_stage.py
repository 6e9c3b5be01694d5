"""Which steps there are, and what the one into production takes."""

import pytest

from finlora_core.stages.stage import LEAST_ROWS, STEPS, Evidence, Stage, lacking


def test_a_step_can_be_taken_back() -> None:
    assert set(STEPS) == set(Stage)
    assert all(old in STEPS[new] for old, news in STEPS.items() for new in news)
    assert STEPS[Stage.CANDIDATE] == {Stage.STAGING}


BETTER = "A is better: +3.1 points [1.2, 5.0]"
WORSE = "B is better: +3.1 points [1.2, 5.0]"
EQUAL = "no difference can be shown with 200 rows"

CASES = [
    (None, None, "it has not been compared with adp_x"),
    (Evidence("cmp_1", 200, True, BETTER), None, None),
    (Evidence("cmp_1", LEAST_ROWS, True, BETTER), None, None),
    (Evidence("cmp_1", LEAST_ROWS - 1, True, BETTER), None, "29 rows; at least 30 are needed"),
    (Evidence("cmp_1", 200, False, WORSE), None, f"does not find it better: {WORSE}"),
    (Evidence("cmp_1", 200, False, EQUAL), None, f"does not find it better: {EQUAL}"),
    (None, "for a demonstration", None),
    (Evidence("cmp_1", 200, False, WORSE), "half as large", None),
    (Evidence("cmp_1", 1, True, BETTER), "all that we have", None),
]


@pytest.mark.parametrize(("evidence", "override", "reason"), CASES)
def test_promotion_takes_a_comparison_that_finds_it_better_or_a_reason(
    evidence: Evidence | None, override: str | None, reason: str | None
) -> None:
    said = lacking("adp_x", evidence, override)
    assert (said is None) == (reason is None)
    assert reason is None or reason in str(said)
