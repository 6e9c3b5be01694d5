"""From a job as OpenAI's clients ask for it to a FinLoRA run config."""

from typing import Any

import pytest

from api.openai.job_request import JobRequest, to_run
from finlora_core.errors import InvalidRequest
from finlora_core.runs.config import PromptFormat, RunRequest
from tests.support import BASE_MODEL

TRAINING, VALIDATION = "dataset_" + "1" * 20, "dataset_" + "2" * 20
JOB: dict[str, Any] = {"model": BASE_MODEL, "training_file": "file-" + "1" * 20}


def run_of(**keys: Any) -> RunRequest:
    return to_run(
        JobRequest.model_validate({**JOB, **keys}), TRAINING, None, PromptFormat.INSTRUCTION
    )


def hyper(**keys: Any) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": keys}}}


def test_a_bare_job_is_finloras_own_config() -> None:
    config = {"base_model": BASE_MODEL, "dataset_path": TRAINING}
    expected = RunRequest.model_validate(config)
    assert run_of() == expected
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert run_of(**hyper(**auto)) == expected


@pytest.mark.parametrize("place", ["method", "hyperparameters"])
def test_both_places_of_hyperparameters_count(place: str) -> None:
    keys = {"n_epochs": 3, "learning_rate_multiplier": 0.1}
    run = run_of(**(hyper(**keys) if place == "method" else {place: keys}))
    assert run.num_epochs == 3
    assert run.learning_rate == pytest.approx(2e-5)


@pytest.mark.parametrize(
    ("asked", "at_once", "batches"), [(1, 1, 1), (2, 2, 1), (7, 1, 7), (8, 2, 4), (64, 2, 32)]
)
def test_a_batch_is_the_rows_of_an_optimizer_step(asked: int, at_once: int, batches: int) -> None:
    run = run_of(**hyper(batch_size=asked))
    assert (run.batch_size, run.gradient_accumulation_steps) == (at_once, batches)


def test_the_form_of_the_rows_is_the_files_unless_it_is_said() -> None:
    job = JobRequest.model_validate(JOB)
    assert to_run(job, TRAINING, VALIDATION, PromptFormat.CHAT).prompt_format == "chat"
    assert run_of(prompt_format="alpaca").prompt_format == "alpaca"


def test_finloras_own_keys_stand_beside_openais() -> None:
    run = run_of(lora_r=4, quant_bits=8, priority=5, name="mine", seed=1, metadata={"a": "b"})
    assert (run.lora_r, run.quant_bits, run.priority, run.name) == (4, 8, 5, "mine")
    assert (run.seed, run.metadata) == (1, {"a": "b"})


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"integrations": [{}]}, "integrations"),
        ({"suffix": "a b"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"suffix": "a", "name": "b"}, "name"),
        ({**hyper(n_epochs=2), "num_epochs": 3}, "num_epochs"),
        ({**hyper(batch_size=2), "gradient_accumulation_steps": 3}, "gradient_accumulation_steps"),
        ({"dataset_path": "x"}, "dataset_path"),
        (hyper(n_epochs=10_000), "method.supervised.hyperparameters.n_epochs"),
        ({"num_epochs": 10_000}, "num_epochs"),
        ({"plugins": ["evil"]}, "plugins"),
    ],
)
def test_what_cannot_be_done_is_named_by_the_clients_own_key(
    keys: dict[str, Any], key: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        run_of(**keys)
    assert [problem.key for problem in caught.value.problems] == [key]
