"""Each metric against cases computed by hand."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from finlora_core.evaluation.metrics import judge
from finlora_core.evaluation.reading import first_number, words_of
from finlora_core.evaluation.tasks import Metric, Task, get_task, own_task

SENTIMENT = get_task("tfns")
NESTED = own_task("accuracy", labels=["negative", "moderately negative", "neg"])
CHOICE = get_task("cfa_level1")
FORMULA = get_task("formula")
VALUE = get_task("xbrl_value_extract")
TAGS = get_task("finer")
CONSTRUCTION = get_task("xbrl_formula_extract")
TERM = get_task("xbrl_term")


@pytest.mark.parametrize(
    ("task", "output", "label"),
    [
        (SENTIMENT, "positive", "positive"),
        (SENTIMENT, " Positive.", "positive"),
        (SENTIMENT, "neutral, not positive", "neutral"),
        (SENTIMENT, "negativepositive", "negative"),
        (SENTIMENT, "POSITIVE", "positive"),
        (SENTIMENT, "good", None),
        (SENTIMENT, "", None),
        (SENTIMENT, "积极 positive", "positive"),
        (NESTED, "moderately negative", "moderately negative"),  # not the one inside it
        (NESTED, "negative", "negative"),  # the longest of those that begin there
        (NESTED, "neg", "neg"),
        (NESTED, "negligible", "neg"),
        (NESTED, "neg, moderately negative", "neg"),
        (own_task("accuracy", labels=["Straße", "積極"]), "die STRASSE", "Straße"),
        (own_task("accuracy", labels=["Straße", "積極"]), "是積極的", "積極"),
        (get_task("headline"), "yes", "Yes"),
    ],
)
def test_the_first_label_in_the_output_counts(task: Task, output: str, label: str | None) -> None:
    right = judge(task, output, label or task.labels[0])
    assert (right.prediction, right.score) == (label, float(label is not None))
    wrong = next(each for each in task.labels if each != label)
    assert judge(task, output, wrong).score == 0


def test_a_target_outside_the_labels_is_never_right() -> None:
    assert judge(SENTIMENT, "positive", "bullish").score == 0
    assert judge(SENTIMENT, "good", "bullish").score == 0


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("B. Asking Jones to issue a favorable report", "B"),
        ("(B) Asking Jones", "B"),
        ("B", "B"),
        ("B Asking Jones", "B"),
        ("**B**", "B"),
        ("The answer is B", "B"),
        ("I think it is B.\nC. is wrong", "B"),
        ("Answer: B\nbecause a report", "B"),
        ("Because a client asked for it", None),
        ("b", None),
        ("E. None", None),
        ("", None),
        ("税B", None),
    ],
)
def test_a_choice_is_read_from_its_letter(output: str, letter: str | None) -> None:
    judged = judge(CHOICE, output, "B. Asking Jones to issue a favorable report")
    assert (judged.prediction, judged.score) == (letter, float(letter == "B"))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("15092.44", "15092.44"),
        ("The NPV is $15,092.44.", "15092.44"),
        ("= 1,234,567", "1234567"),
        ("-5", "-5"),
        ("−5.5", "-5.5"),  # noqa: RUF001  # U+2212
        ("$-5", "-5"),
        ("-$5", "-5"),
        ("(1,234.56)", "-1234.56"),
        ("($5)", "-5"),
        ("f(5)", "5"),
        ("(5 years)", "5"),
        ("2019-2020", "2019"),
        ("- 15\n- 16", "15"),
        (f"-1{'0' * 39}1", f"-1{'0' * 39}1"),
        ("Q3 revenue of 7", "7"),
        (".5", "0.5"),
        ("1.5e6 dollars", "1.5e6"),
        ("€ 12", "12"),
        ("12,34", "12"),
        ("٣", "3"),
        ("five", None),
        ("", None),
    ],
)
def test_the_first_number_is_read_as_people_write_it(text: str, number: str | None) -> None:
    found = first_number(text)
    assert (found and found[0]) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("task", "output", "target", "score"),
    [
        (FORMULA, "15,092.44", "15092.44", 1),
        (FORMULA, "15092.445", "15092.44", 1),  # half a cent away
        (FORMULA, "15092.4451", "15092.44", 0),
        (FORMULA, "3", "3.0", 1),
        (FORMULA, "3%", "0.03", 1),
        (FORMULA, "3%", "3.0", 1),
        (FORMULA, "0.04", "0.03", 0),
        (FORMULA, "three", "3.0", 0),
        (FORMULA, "", "3.0", 0),
        (VALUE, "$16,116,000,000", "16116000000.0", 1),
        (VALUE, "16116000001", "16116000000", 0),
        (VALUE, "(15879000000)", "-15879000000.0", 1),
        (VALUE, "5", "none", 0),
    ],
)
def test_a_number_is_right_within_the_tolerance(
    task: Task, output: str, target: str, score: float
) -> None:
    assert judge(task, output, target).score == score


@pytest.mark.parametrize(
    ("output", "target", "score", "weight"),
    [
        ("A,B,C", "A,B,C", 3, 3),
        ("a , us-gaap:B,c", "A,B,C", 3, 3),
        ("B,A,C", "A,B,C", 1, 3),
        ("A", "A,B,C", 1, 3),
        ("A,B,C,D", "A,B", 2, 2),
        ("InterestExpenseDebt", "InterestExpense", 0, 1),
        ("", "A,B", 0, 2),
        ("A,,C", "A,B,C", 2, 3),
        ("Größe,税", "größe,税", 2, 2),
    ],
)
def test_tags_are_compared_position_by_position(
    output: str, target: str, score: float, weight: float
) -> None:
    judged = judge(TAGS, output, target)
    assert (judged.score, judged.weight) == (score, weight)
    assert judged.prediction is None or judged.prediction.count(",") == weight - 1


RATIO = "(us-gaap:GrossProfit / us-gaap:Revenues) * 100"


@pytest.mark.parametrize(
    ("output", "target", "score"),
    [
        (RATIO, RATIO, 1),
        ("(us-gaap:grossprofit/us-gaap:revenues)*100", RATIO, 1),
        (f"The formula is {RATIO}.", RATIO, 1),
        (f"`{RATIO}`\nIt means", RATIO, 1),
        ("us-gaap:GrossProfit / us-gaap:Revenues", RATIO, 0),
        (RATIO, "us-gaap:GrossProfit / us-gaap:Revenues", 0),  # an operand of another formula
        ("(us-gaap:A / us-gaap:B)", "us-gaap:A / us-gaap:B", 1),
        ("100 * (us-gaap:A / us-gaap:B)", "us-gaap:A / us-gaap:B", 0),
        ("The tag is **us-gaap:Cash**", "us-gaap:Cash", 1),
        ("Cash (us-gaap:Cash)", "us-gaap:Cash", 1),
        ("us-gaap:CashUninsuredAmount", "us-gaap:Cash", 0),
        ("(-6995000000 / 32681000000) * 100", "(-6995000000 / 32681000000) * 100", 1),
        ("15 / 30", "5 / 3", 0),
        ("1.5 / 3", "5 / 3", 0),
        ("5 / 3.5", "5 / 3", 0),
        ("", "us-gaap:Cash", 0),
        ("税 / 收", "税/收", 1),
    ],
)
def test_a_formula_stands_in_the_output_whole(output: str, target: str, score: float) -> None:
    assert judge(CONSTRUCTION, output, target).score == score


@pytest.mark.parametrize(
    ("output", "target", "score"),
    [
        ("Production of proved reserves.", "production of proved reserves", 1),
        # 3 of 4 words of the output, 3 of 5 of the target, in order: 2 · ¾ · ⅗ / (¾ + ⅗) = ⅔
        ("amount of new debt", "total amount of long debt", 2 / 3),
        ("debt amount", "amount debt", 1 / 2),
        ("", "amount", 0),
        ("...", "amount", 0),
        ("現金及び預金", "現金預金", 0.8),  # 4 characters of 6 and of 4: 2 · ⅔ · 1 / (⅔ + 1)
        ("Überschuß", "ÜBERSCHUSS", 1),
    ],
)
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(
    output: str, target: str, score: float
) -> None:
    assert judge(TERM, output, target).score == pytest.approx(score)


@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_english_are_those_of_the_reference_implementation(text: str) -> None:
    assert words_of(text) == DefaultTokenizer().tokenize(text)


@pytest.mark.parametrize("output", ["", "  \n"])
@pytest.mark.parametrize("metric", Metric)
def test_an_empty_output_is_empty_unread_and_wrong(metric: Metric, output: str) -> None:
    labels = ["a"] if metric is Metric.ACCURACY else []
    judged = judge(own_task(metric.value, labels=labels), output, "a")
    assert (judged.is_empty, judged.prediction, judged.score) == (True, None, 0)


@given(
    st.sampled_from(Metric),
    st.text() | st.from_regex(r"[-(]?[$]?[0-9,.]{0,40}(e[0-9]{0,9})?[%)]?"),
    st.text(),
)
def test_no_text_is_too_strange_to_be_judged(metric: Metric, output: str, target: str) -> None:
    labels = ["positive", "ß", "İ"] if metric is Metric.ACCURACY else []
    judged = judge(own_task(metric.value, labels=labels), output, target)
    assert 0 <= judged.score <= judged.weight
    assert judged.weight >= 1


@given(st.sampled_from(Metric), st.text(min_size=1).filter(str.strip))
def test_the_target_itself_is_as_right_as_an_answer_can_be(metric: Metric, target: str) -> None:
    labels = [target.strip()] if metric is Metric.ACCURACY else []
    judged = judge(own_task(metric.value, labels=labels), target, target)
    readable = judged.prediction is not None and (metric is not Metric.ROUGE_L or words_of(target))
    if readable and metric is not Metric.TAGS:
        assert judged.score == pytest.approx(1)
