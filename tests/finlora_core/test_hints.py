"""Why a run failed, in words that fit what it was for."""

import pytest

from finlora_core.redact import redact
from finlora_core.runs.kind import RunKind
from finlora_core.training.diagnose import FailureCode, failure
from finlora_core.training.hints import HINTS, OWN_HINTS, hint_of

KINDS = list(RunKind)
UNTRAINED = [RunKind.EVALUATION, RunKind.MERGE]

OF_TRAININGS = {
    FailureCode.OPTIMIZER_NEEDS_GPU,
    FailureCode.DEEPSPEED_NOT_INSTALLED,
    FailureCode.TOKENIZER_MISMATCH,
    FailureCode.PARALLELISM_NOT_APPLIED,
    FailureCode.LOSS_NOT_FINITE,
    FailureCode.NOTHING_TO_JUDGE,
    FailureCode.INVALID_ADAPTER,
    FailureCode.TRAINING_ERROR,
}
"""Nothing else fails with these."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", FailureCode)
def test_every_code_has_a_hint_of_whole_sentences(code: FailureCode, kind: RunKind) -> None:
    hint = hint_of(failure(code), kind)
    assert hint.endswith(".")
    assert len(hint.split()) > 5
    assert redact(hint) == hint


def test_a_detail_is_put_behind_the_hint() -> None:
    found = failure(FailureCode.DATASET_CHANGED, detail="../data/x.jsonl")
    hint = hint_of(found, RunKind.TRAINING)
    assert hint == HINTS[FailureCode.DATASET_CHANGED] + " (../data/x.jsonl)"


@pytest.mark.parametrize("kind", UNTRAINED)
@pytest.mark.parametrize("code", FailureCode)
def test_what_does_not_train_is_not_told_to_go_on_from_a_checkpoint_or_to_accumulate(
    code: FailureCode, kind: RunKind
) -> None:
    hint = hint_of(failure(code), kind)
    assert "/retry" not in hint
    assert "gradient_accumulation" not in hint


@pytest.mark.parametrize("kind", UNTRAINED)
@pytest.mark.parametrize("code", sorted(set(FailureCode) - OF_TRAININGS))
def test_what_does_not_train_is_not_told_of_a_training(code: FailureCode, kind: RunKind) -> None:
    hint = hint_of(failure(code), kind)
    assert not any(word in hint for word in ("raining", "Axolotl", "checkpoint", "this run"))


@pytest.mark.parametrize("kind", UNTRAINED)
def test_it_is_told_by_its_own_name(kind: RunKind) -> None:
    (other,) = set(UNTRAINED) - {kind}
    assert all(f"the {other}" not in hint.lower() for hint in OWN_HINTS[kind].values())
