"""What the plugin refuses inside the real Axolotl, where FinLoRA's script would go on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from finlora_core.db.models import Run
from finlora_core.runs.status import RunStatus
from finlora_core.training.axolotl import PLUGIN
from finlora_core.training.files import AttemptFiles
from tests.support import BASE_MODEL
from tests.worker.conftest import BenchWith
from worker.attempt import work_until_idle
from worker.bench import Bench
from worker.trainer import axolotl_command

pytestmark = pytest.mark.training

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

    def command(files: AttemptFiles) -> Sequence[str]:
        files.config.write_text(edit(files.config.read_text()))
        return axolotl_command(files)

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
