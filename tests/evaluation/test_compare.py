"""Two models' answers to the same rows."""

import pytest

from finlora_core.errors import DifferentRows
from finlora_core.evaluation.compare import changed_rows, compare
from finlora_core.evaluation.outputs import Output
from finlora_core.evaluation.tasks import Metric


def row(line: int, score: float = 1.0, *, prompt: str = "", target: str = "positive") -> Output:
    return Output(
        line=line,
        prompt_sha256=prompt or f"prompt {line}",
        target=target,
        output=f"said {score}",
        prediction=None,
        score=score,
        weight=1.0,
    )


def test_right_and_wrong_rows_are_counted_by_hand() -> None:
    a = [row(n, float(n <= 70)) for n in range(1, 101)]
    b = [row(n, float(n > 40)) for n in range(1, 101)]
    compared = compare(Metric.ACCURACY, a, b)
    assert compared.difference.difference == pytest.approx(0.10)
    assert compared.mcnemar is not None
    assert (compared.mcnemar.only_a, compared.mcnemar.only_b) == (40, 30)
    assert compared.mcnemar.p_value == pytest.approx(0.2820, abs=1e-4)  # R: binom.test(40, 70)
    assert (compared.rows, compared.changed) == (100, 70)
    assert compared.verdict == "no difference can be shown with 100 rows"
    assert [one.line for one in changed_rows(a, b)] == [*range(1, 41), *range(71, 101)]


def test_who_is_better_does_not_depend_on_the_order() -> None:
    a = [row(n, 1.0) for n in range(1, 51)]
    b = [row(n, float(n > 20)) for n in range(1, 51)]
    forth, back = compare(Metric.CHOICE, a, b), compare(Metric.CHOICE, b, a)
    assert (forth.difference.better, back.difference.better) == ("A", "B")
    assert forth.verdict == back.verdict.replace("B", "A")
    assert forth.verdict.startswith("A is better: +40.0 points [")


@pytest.mark.parametrize("metric", [Metric.ROUGE_L, Metric.TAGS])
def test_scores_between_right_and_wrong_have_no_mcnemar(metric: Metric) -> None:
    compared = compare(metric, [row(1, 0.75), row(2, 0.5)], [row(1, 0.25), row(2, 0.5)])
    assert compared.mcnemar is None
    assert compared.difference.difference == pytest.approx(0.25)
    assert compared.changed == 1


DIFFERENT = {
    "another prompt": (
        [row(1), row(2)],
        [row(1), row(2, prompt="x")],
        "line 2 has another prompt",
    ),
    "another target": ([row(1)], [row(1, target="negative")], "line 1 has another target"),
    "drawn otherwise": ([row(1), row(4)], [row(1), row(3)], "only B has line 3"),
    "fewer": ([row(1), row(2)], [row(1)], "only A has line 2; A has 2 rows, B 1"),
    "none": ([], [row(5)], "only B has line 5; A has 0 rows, B 1"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_different_rows_are_refused_with_the_first_difference(case: str) -> None:
    a, b, words = DIFFERENT[case]
    with pytest.raises(DifferentRows, match=f"{words}$"):
        compare(Metric.ACCURACY, a, b)


def test_the_same_rows_on_other_lines_are_the_same_rows() -> None:
    moved = [row(7, prompt="prompt 1"), row(9, prompt="prompt 2")]
    assert compare(Metric.ACCURACY, [row(1), row(2)], moved).changed == 0
