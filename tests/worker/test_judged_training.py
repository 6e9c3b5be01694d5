"""Real Axolotl with an evaluation task: the best step is published, not the last one."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from finlora_core.training import checkpoints
from finlora_core.training.checkpoints import Checkpoint
from finlora_core.training.files import AttemptFiles, RunFiles
from tests.support import BASE_MODEL, eventually, make_config
from tests.worker.test_real_axolotl import LINEAGE, RARELY, Trainings, lines
from worker.errand import Judging
from worker.judge import BEST_WEIGHTS
from worker.tail import read_json

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

SAVE_STEPS, PATIENCE = 2, 2
MAX_STEPS = 6 * SAVE_STEPS
CONFIG = make_config(
    learning_rate=1e-2,
    lr_scheduler="constant",
    warmup_steps=0,
    lora_target_modules="all-linear",
    num_epochs=MAX_STEPS // SAVE_STEPS,
    batch_size=8,
    gradient_accumulation_steps=1,
    validation_dataset_path="held_out.jsonl",
    evaluation_task="accuracy",
)
JUDGING = Judging(task="accuracy", patience=PATIENCE)


def write(path: Path, targets: list[str]) -> Path:
    rows = [{"context": f"Profit of {n}?", "target": target} for n, target in enumerate(targets)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Trainings:
    """It learns to say `positive` to everything, which half of the held-out rows are; from then
    on it cannot get better."""
    root = tmp_path_factory.mktemp("judged")
    trained_on = write(root / "train.jsonl", ["positive"] * 8 * SAVE_STEPS)
    held_out = write(root / "held_out.jsonl", ["positive", "negative"] * 4)
    return Trainings(root, tiny_base / BASE_MODEL, trained_on, CONFIG, held_out)


@pytest.fixture(scope="module")
def undisturbed(trainings: Trainings) -> AttemptFiles:
    """The same training, judged by nobody."""
    return trainings.train(1)


@pytest.fixture(scope="module")
def paused(trainings: Trainings) -> Checkpoint:
    """Judged, and asked to stop behind its best step, where the loss is to be validated, too."""
    files = RunFiles(trainings.root).attempt(2)
    with trainings.start(2, seconds=RARELY, judging=JUDGING) as process:

        def has_ended() -> bool:
            if any(values > 0 for _, values in judged(files)):
                files.stop_requested.touch()
            return process.poll() is not None

        assert eventually(has_ended, seconds=400)
    assert process.returncode == 0, files.log.read_text()[-2000:]
    for line in lines(files.saved):
        checkpoints.keep(RunFiles(trainings.root), 2, LINEAGE, line["step"])
    newest = checkpoints.newest(RunFiles(trainings.root), LINEAGE)
    assert newest is not None
    assert read_json(files.stopped) == {"step": newest.step}
    return newest


@pytest.fixture(scope="module")
def resumed(trainings: Trainings, paused: Checkpoint) -> AttemptFiles:
    return trainings.train(3, resume_from=paused.path, judging=JUDGING)


def judged(files: AttemptFiles) -> list[tuple[int, float]]:
    """Step and value of each judgement."""
    points = lines(files.metrics)
    return [(point["step"], point["eval_accuracy"]) for point in points if "eval_rows" in point]


def completed(files: AttemptFiles) -> dict[str, Any]:
    content = read_json(files.completed)
    assert content is not None, files.log.read_text()[-2000:]
    return content


def same_weights(one: Path, other: Path) -> bool:
    """Of two safetensors files, whatever else stands in their headers."""
    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all((left[n] == right[n]).all() for n in left)


def test_the_best_step_is_published_though_the_training_was_paused_and_went_on_after_it(
    trainings: Trainings, paused: Checkpoint, resumed: AttemptFiles
) -> None:
    first = RunFiles(trainings.root).attempt(2)
    values = dict([*judged(first), *judged(resumed)])
    step = next(step for step, value in values.items() if value == max(values.values()))
    assert completed(resumed)["best"] == {
        "step": step, "metric": "accuracy", "value": 0.5, "rows": 8,
    }  # fmt: skip
    assert step <= paused.step < completed(resumed)["steps"]
    published = resumed.output / "adapter_model.safetensors"
    kept = paused.path.parent / f"checkpoint-{step}" / "adapter_model.safetensors"
    assert same_weights(published, kept)
    last = resumed.output / f"checkpoint-{completed(resumed)['steps']}"
    assert same_weights(published, last / BEST_WEIGHTS)
    assert not same_weights(published, last / "adapter_model.safetensors")


def test_it_stops_when_so_many_evaluations_were_no_better(resumed: AttemptFiles) -> None:
    facts = completed(resumed)
    assert facts["steps"] == facts["best"]["step"] + PATIENCE * SAVE_STEPS < MAX_STEPS
    assert facts["metrics"]["eval_accuracy"] == facts["best"]["value"]
    assert facts["metrics"]["train_loss"] > 0


def test_judging_changes_no_bit_of_what_is_trained(
    trainings: Trainings, undisturbed: AttemptFiles, resumed: AttemptFiles, paused: Checkpoint
) -> None:
    compared = 0
    for folder in (paused.path.parent, resumed.output):
        for saved in folder.glob("checkpoint-*/adapter_model.safetensors"):
            plain = undisturbed.output / saved.parent.name / saved.name
            if plain.is_file():  # not where it was stopped between two saves
                assert saved.read_bytes() == plain.read_bytes()
                compared += 1
    assert compared >= PATIENCE
