"""What the plugin does inside the real Axolotl: what it refuses, where FinLoRA's script would go
on, and checkpoints to go on from."""

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from finlora_core.db.models import Run
from finlora_core.runs.config import RunConfig
from finlora_core.runs.status import RunStatus
from finlora_core.training import checkpoints
from finlora_core.training.axolotl import PLUGIN, Hardware, TrainingInput, render, to_yaml
from finlora_core.training.base_model import read_base_model
from finlora_core.training.checkpoints import Checkpoint, Lineage
from finlora_core.training.files import AttemptFiles, RunFiles
from tests.conftest import TRAIN_ROWS
from tests.support import BASE_MODEL, eventually, make_config
from tests.worker.conftest import BenchWith
from worker.attempt import work_until_idle
from worker.bench import Bench
from worker.environment import trainer_environment
from worker.errand import Judging
from worker.tail import read_json, read_json_lines
from worker.trainer import axolotl_command

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

Seen = Callable[[], Run]
EditYaml = Callable[[str], str]


@pytest.fixture
def model(settings: object, tiny_base: Path, tmp_path: Path) -> Path:
    """A real base model in the place of the empty one."""
    folder = tmp_path / "models" / BASE_MODEL
    folder.mkdir(parents=True)
    for file in (tiny_base / BASE_MODEL).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def with_axolotl(bench: Bench, edit: EditYaml = str) -> Bench:
    """The real trainer, on a YAML that somebody has changed first."""

    def command(files: AttemptFiles, processes: int) -> Sequence[str]:
        files.config.write_text(edit(files.config.read_text()))
        return axolotl_command(files, processes)

    return replace(bench, train_command=command)


def test_four_bits_that_do_not_quantise_are_refused(
    bench_with: BenchWith, run_id: str, seen: Seen
) -> None:
    """FinLoRA's own rendering: Axolotl trains it in full precision without a word."""

    def as_finlora_does(yaml: str) -> str:
        return yaml.replace("load_in_4bit: false", "load_in_4bit: true")

    work_until_idle(with_axolotl(bench_with(""), as_finlora_does))
    run = seen()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "quantization_not_applied")


def test_a_loss_that_is_not_finite_ends_the_run(
    bench_with: BenchWith, run_id: str, seen: Seen, model: Path
) -> None:
    weights = load_file(model / "model.safetensors")
    poisoned = {name: np.full_like(value, np.nan) for name, value in weights.items()}
    save_file(poisoned, model / "model.safetensors", metadata={"format": "pt"})
    work_until_idle(with_axolotl(bench_with("")))
    run = seen()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "loss_not_finite"), run.error_log


def test_without_its_plugin_a_training_is_no_success(
    bench_with: BenchWith, run_id: str, seen: Seen
) -> None:
    """Axolotl only logs a plugin that it cannot import, and exits 0."""

    def lose_the_plugin(yaml: str) -> str:
        return yaml.replace(PLUGIN, "worker.no_such_plugin.Plugin")

    work_until_idle(with_axolotl(bench_with(""), lose_the_plugin))
    run = seen()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "training_error")
    assert "Training completed" in (run.error_log or "")


CONFIG = make_config(learning_rate=1e-3, num_epochs=3, batch_size=4, gradient_accumulation_steps=2)
STEPS, STEPS_AN_EPOCH = 15, 5
LINEAGE = Lineage(config_sha256="c" * 64, dataset_sha256="d" * 64)
RARELY, AT_EVERY_STEP = 3600.0, 1e-6  # seconds


@dataclass(frozen=True)
class Trainings:
    """Launches the trainer as the worker does, without a guard or a database."""

    root: Path
    model: Path
    dataset: Path
    config: RunConfig = CONFIG
    validation: Path | None = None

    @contextmanager
    def start(
        self,
        attempt: int,
        *,
        seconds: float,
        resume_from: Path | None = None,
        judging: Judging | None = None,
    ) -> Iterator[subprocess.Popen[bytes]]:
        files = RunFiles(self.root).attempt(attempt)
        files.create()
        resumed = str(resume_from) if resume_from else None
        given = TrainingInput(
            base_model=str(self.model),
            model=read_base_model(self.model),
            dataset=str(self.dataset),
            dataset_rows=TRAIN_ROWS,
            validation_dataset=str(self.validation) if self.validation else None,
            resume_from=resumed,
        )
        files.config.write_text(to_yaml(render(self.config, given, files, Hardware.CPU)))
        if judging is not None:
            files.judging.write_text(judging.model_dump_json())
        with TemporaryDirectory() as temporary, files.log.open("wb") as log:
            env = trainer_environment(files, temporary, checkpoint_seconds=seconds)
            process = subprocess.Popen(
                axolotl_command(files, 1), stdout=log, stderr=log, cwd=files.cwd, env=dict(env)
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def train(self, attempt: int, **how: Any) -> AttemptFiles:
        """To its end."""
        with self.start(attempt, seconds=RARELY, **how) as process:
            process.wait()
        return RunFiles(self.root).attempt(attempt)


def lines(file: Path) -> list[dict[str, Any]]:
    return read_json_lines(file.read_text()) if file.exists() else []


def losses(files: AttemptFiles) -> Mapping[int, float]:
    return {line["step"]: line["loss"] for line in lines(files.metrics) if "loss" in line}


def mean_loss(files: AttemptFiles) -> float:
    completed = read_json(files.completed)
    assert completed is not None, files.log.read_text()[-2000:]
    return float(completed["metrics"]["train_loss"])


def weights(files: AttemptFiles) -> bytes:
    return (files.output / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, data: Path) -> Trainings:
    root = tmp_path_factory.mktemp("run")
    return Trainings(root, tiny_base / BASE_MODEL, data / "train.jsonl")


@pytest.fixture(scope="module")
def stopped(trainings: Trainings) -> Checkpoint:
    """The first attempt saves at every step, has each checkpoint taken away, and is asked to
    stop in its second epoch."""
    run = RunFiles(trainings.root)
    files = run.attempt(1)

    def keep_what_is_saved() -> None:
        for line in lines(files.saved):
            checkpoints.keep(run, 1, LINEAGE, line["step"])

    with trainings.start(1, seconds=AT_EVERY_STEP) as process:

        def has_ended() -> bool:
            keep_what_is_saved()
            if (read_json(files.progress) or {}).get("step", 0) > STEPS_AN_EPOCH:
                files.stop_requested.touch()
            return process.poll() is not None

        assert eventually(has_ended, seconds=400)
    keep_what_is_saved()
    assert process.returncode == 0, files.log.read_text()[-2000:]
    newest = checkpoints.newest(run, LINEAGE)
    assert newest is not None
    return newest


def test_a_training_that_was_asked_to_stop_has_saved_where_it_stopped(
    trainings: Trainings, stopped: Checkpoint
) -> None:
    files = RunFiles(trainings.root).attempt(1)
    assert STEPS_AN_EPOCH < stopped.step < STEPS
    assert read_json(files.stopped) == {"step": stopped.step}
    assert not files.completed.exists()
    assert [line["step"] for line in lines(files.saved)] == [*range(1, stopped.step + 1)]
    progress = read_json(files.progress)
    assert progress is not None
    assert (progress["step"], progress["max_steps"]) == (stopped.step, STEPS)
    assert not [line for line in lines(files.metrics) if "train_loss" in line]


def test_stopped_and_resumed_it_ends_in_the_same_adapter_bit_for_bit(
    trainings: Trainings, stopped: Checkpoint
) -> None:
    whole = trainings.train(2)
    resumed = trainings.train(3, resume_from=stopped.path)
    assert mean_loss(resumed) == pytest.approx(mean_loss(whole))
    assert weights(resumed) == weights(whole)
    first = RunFiles(trainings.root).attempt(1)
    assert losses(whole) == {**losses(first), **losses(resumed)}
    assert min(losses(resumed)) == stopped.step + 1
    assert read_json(resumed.progress) == read_json(whole.progress)


def test_a_checkpoint_that_lacks_what_the_model_trains_is_refused(
    trainings: Trainings, stopped: Checkpoint, tmp_path: Path
) -> None:
    """PEFT warns, and goes on from fresh weights."""
    other = tmp_path / "checkpoint"
    other.mkdir()
    for file in stopped.path.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    saved = load_file(other / "adapter_model.safetensors")
    renamed = {name.replace("q_proj", "o_proj"): value for name, value in saved.items()}
    save_file(renamed, other / "adapter_model.safetensors", metadata={"format": "pt"})
    files = trainings.train(4, resume_from=other)
    assert "does not fit the model" in files.log.read_text()
    assert not files.progress.exists()
    assert not files.completed.exists()
