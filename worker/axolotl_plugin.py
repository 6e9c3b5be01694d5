"""Runs inside the training process: metrics, progress, checks, checkpoints, the end's marker.

Axolotl loads it by name from the YAML. Beside the YAML the worker tells the process only
the attempt's folder (FINLORA_ATTEMPT_DIR) and how often to save (FINLORA_CHECKPOINT_SECONDS).
A plugin that fails to import is only logged by Axolotl; then the marker is missing,
and the worker takes that for a failure.
"""

import json
import logging
import math
import os
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from unicodedata import normalize

import torch
import torch.distributed as dist
from axolotl.integrations.base import BasePlugin
from peft import get_peft_model_state_dict
from safetensors import safe_open
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from finlora_core.datasets.rows import texts_of
from finlora_core.runs.config import PromptFormat
from finlora_core.training.checkpoints import CHECKPOINT_SECONDS
from finlora_core.training.diagnose import FailureCode
from finlora_core.training.files import ATTEMPT_DIR, AttemptFiles
from worker.cpu_mends import keep_4bit_differentiable, keep_int8_scales
from worker.loading import count_quantized
from worker.probe import probe, rows_of
from worker.tail import write_json

PROGRESS_EVERY = 0.5  # seconds


class FinLoRAPlugin(BasePlugin):  # type: ignore[misc]
    """The hooks, in the order Axolotl calls them."""

    def __init__(self) -> None:
        super().__init__()
        self._files = AttemptFiles(Path(os.environ[ATTEMPT_DIR]))
        self._facts: dict[str, Any] = {}
        self._checkpoints = Checkpoints(self._files, float(os.environ[CHECKPOINT_SECONDS]))
        self._probed: Sequence[Sequence[int]] = ()

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        """Loads none: it is the first hook that sees all of cfg, and the device is not set yet."""
        if on_cpu():  # of several processes each would take the GPU of its own number
            cfg.device_map = {"": "cpu"}

    def pre_model_load(self, cfg: Any) -> None:
        # Axolotl seeds after the adapter's weights are made, so runs would not repeat
        set_seed(cfg.seed)
        if on_cpu():
            # Axolotl takes float16 for any 8-bit base, which CPUs compute 3 to 5 times slower
            cfg.torch_dtype = torch.float32
            # says at every layer and step that a CPU quantises activations through float16
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
            if cfg.load_in_8bit and cfg.peft_use_dora:
                keep_int8_scales()

    def post_model_load(self, cfg: Any, model: torch.nn.Module) -> None:
        quantized = count_quantized(model)
        self._facts["quantized_layers"] = quantized
        for bits, wanted in ((4, cfg.load_in_4bit), (8, cfg.load_in_8bit)):
            if wanted and not quantized[f"{bits}bit"]:
                self._refuse(FailureCode.QUANTIZATION_NOT_APPLIED, f"{bits} bits, {quantized}")
        if on_cpu():
            keep_4bit_differentiable(model)

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        if (fault := unlike_asked(cfg, trainer.accelerator)) is not None:
            self._refuse(FailureCode.PARALLELISM_NOT_APPLIED, fault)
        if on_cpu():  # of several processes each has "cpu:0", where nothing can be loaded to
            trainer.args.__dict__["_setup_devices"] = torch.device("cpu")
        self._facts |= count_rows(cfg, trainer)
        for text in first_texts(Path(cfg.datasets[0].path), form_of(cfg)):
            if not survives(trainer.processing_class, text):
                self._refuse(
                    FailureCode.TOKENIZER_MISMATCH, f"at the row that starts {text[:60]!r}"
                )
        trainer.args.logging_nan_inf_filter = False  # it would log NaN as a loss of 0
        # the supervisor takes checkpoints away: the trainer's own rotation would fall over a
        # folder that vanishes while it looks
        trainer.args.save_total_limit = None
        self._checkpoints.resumed_from = cfg.resume_from_checkpoint
        trainer.add_callback(self._checkpoints)
        trainer.add_callback(Reporter(self._files, self._facts))
        self._probed = rows_of(trainer.train_dataset)

    def post_train(self, cfg: Any, model: torch.nn.Module) -> None:
        """Called twice: first while the model is in memory as it was trained."""
        if "probe" not in self._facts and self._checkpoints.stopped_at is None:
            self._facts["probe"] = probe(model, self._probed)

    def post_train_unload(self, cfg: Any) -> None:
        """Called last, after the adapter has been saved."""
        if not is_first_process():
            return
        if self._checkpoints.stopped_at is None:
            write_json(self._files.completed, self._facts)
        else:
            write_json(self._files.stopped, {"step": self._checkpoints.stopped_at})

    def _refuse(self, code: FailureCode, detail: str) -> None:
        write_json(self._files.failure, {"code": code.value, "detail": detail})
        raise SystemExit(f"{code.value}: {detail}")


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Writes what the worker passes on: the newest step, and a line for each log."""

    def __init__(self, files: AttemptFiles, facts: dict[str, Any]) -> None:
        self._files = files
        self._facts = facts
        self._started = self._last_written = time.monotonic()
        self._first_step = 0
        self._latest: dict[str, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._started = time.monotonic()
        self._first_step = state.global_step
        for point in state.log_history:  # of the attempts before
            self._latest |= {key: value for key, value in point.items() if key != "step"}
        self._write_progress(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        due = time.monotonic() - self._last_written >= PROGRESS_EVERY
        if due or state.global_step == state.max_steps:
            self._write_progress(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if "train_loss" in (logs or {}) and state.global_step < state.max_steps:
            return  # stopped early: the summary comes with the end
        if not is_first_process():
            return
        logs = for_the_whole_run(logs or {}, state, self._first_step)
        numbers = {key: finite(value) for key, value in logs.items()}
        values = {key: number for key, number in numbers.items() if number is not None}
        self._latest.update(values)
        point = {**values, "step": state.global_step}
        with self._files.metrics.open("a") as file:
            file.write(json.dumps(point) + "\n")
        self._write_progress(state)
        if "loss" in logs and "loss" not in values:
            write_json(self._files.failure, {"code": FailureCode.LOSS_NOT_FINITE.value})
            raise SystemExit(f"the loss is not finite at step {state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._facts |= {"steps": state.global_step, "metrics": self._latest}

    def _write_progress(self, state: TrainerState) -> None:
        if not is_first_process():
            return
        self._last_written = time.monotonic()
        done = state.global_step - self._first_step
        left = state.max_steps - state.global_step
        pace = (self._last_written - self._started) / done if done else None  # seconds a step
        write_json(
            self._files.progress,
            {
                "step": state.global_step,
                "max_steps": state.max_steps,
                "percent": round(100 * state.global_step / max(1, state.max_steps), 1),
                "epoch": state.epoch and round(state.epoch, 3),
                "loss": self._latest.get("loss"),
                "eta_seconds": None if pace is None else round(pace * left, 1),
                "dropped_rows": self._facts["dropped_rows"],
            },
        )


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Saves when it is time, says what is saved, and stops when the supervisor asks."""

    def __init__(self, files: AttemptFiles, seconds: float) -> None:
        self._files = files
        self._seconds = seconds
        self._last_save = time.monotonic()
        self.resumed_from: str | None = None
        self.stopped_at: int | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module,
        **_: Any,
    ) -> None:
        self._last_save = time.monotonic()
        if self.resumed_from and (absent := absent_tensors(model, Path(self.resumed_from))):
            raise SystemExit(f"{self.resumed_from} does not fit the model: no {min(absent)} in it")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            return  # the end, which saves anyway
        is_due = time.monotonic() - self._last_save >= self._seconds
        is_due, is_asked_to_stop = of_first_process(is_due, self._files.stop_requested.exists())
        if is_due:
            control.should_save = True
        if is_asked_to_stop:
            self._stop(state, control)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._last_save = time.monotonic()
        if dist.is_initialized():
            dist.barrier()  # the checkpoint is whole when every process has written its part
        if is_first_process():
            with self._files.saved.open("a") as file:
                file.write(json.dumps({"step": state.global_step}) + "\n")

    def _stop(self, state: TrainerState, control: TrainerControl) -> None:
        """Whoever waits for it waits for no evaluation: going on begins with one."""
        control.should_save = control.should_log = control.should_training_stop = True
        control.should_evaluate = False
        self.stopped_at = state.global_step


def is_first_process() -> bool:
    """Of a training of several processes one speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def of_first_process(*decisions: bool) -> list[bool]:
    """What the first process has decided: each for itself, they would part, and wait for ever."""
    shared: list[Any] = list(decisions)
    if dist.is_initialized():
        dist.broadcast_object_list(shared, src=0)
    return shared


def unlike_asked(cfg: Any, accelerator: Any) -> str | None:
    """How the processes share the training, if not as asked: without a word, accelerate falls
    back to a copy in each, and transformers to one process that knows of no other."""
    asked = "DEEPSPEED" if cfg.deepspeed else "FSDP" if cfg.fsdp_config else None
    found = accelerator.distributed_type.name
    if asked is not None and found != asked:
        return f"{asked} was asked for, {found} is what trains"
    asked_for = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != asked_for:
        return f"{asked_for} processes were asked for, {accelerator.num_processes} train together"
    return None


def absent_tensors(model: torch.nn.Module, checkpoint: Path) -> set[str]:
    """What the model trains and the checkpoint lacks: PEFT only warns of it, and goes on from
    fresh weights, as after an upgrade that names them anew."""
    trained = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    with safe_open(checkpoint / "adapter_model.safetensors", framework="pt") as saved:
        return trained.difference(saved.keys())


def for_the_whole_run(
    logs: dict[str, float], state: TrainerState, first_step: int
) -> dict[str, float]:
    """The summary of a resumed training, for which the trainer divides what it has seen of
    the losses and of the time by all of the run's steps."""
    if not first_step or "train_loss" not in logs:
        return logs
    share = (state.global_step - first_step) / state.global_step
    paces = {key: value * share for key, value in logs.items() if key.endswith("_per_second")}
    return {**logs, **paces, "train_loss": mean_loss(state.log_history)}


def mean_loss(history: list[dict[str, float]]) -> float:
    """Of all steps up to the last one logged; each point stands for those since the one before."""
    total, seen = 0.0, 0.0
    for point in history:
        if "loss" in point:
            total += point["loss"] * (point["step"] - seen)
            seen = point["step"]
    return total / max(1.0, seen)


def finite(value: Any) -> float | None:
    """The number, or None for NaN, infinity and what is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def form_of(cfg: Any) -> PromptFormat:
    """Which form the YAML gives the rows: FinLoRA's is spelt out, the others have names."""
    named = {"alpaca": PromptFormat.ALPACA, "chat_template": PromptFormat.CHAT}
    kind = cfg.datasets[0].type
    return named[kind] if isinstance(kind, str) else PromptFormat.INSTRUCTION


def count_rows(cfg: Any, trainer: Any) -> dict[str, int]:
    """Axolotl leaves rows out that are longer than sequence_len, and only logs it."""
    with Path(cfg.datasets[0].path).open("rb") as file:
        given = sum(bool(line.strip()) for line in file)
    training = len(trainer.train_dataset)
    validation = len(trainer.eval_dataset) if trainer.eval_dataset is not None else 0
    left = training + (0 if cfg.test_datasets else validation)
    return {
        "training_rows": training,
        "validation_rows": validation,
        "dropped_rows": given - left,
    }


def first_texts(dataset: Path, form: PromptFormat, rows: int = 20) -> list[str]:
    """All that the first rows say, as the worker has checked them."""
    with dataset.open(encoding="utf-8") as file:
        parsed = [json.loads(line) for line in islice(file, rows) if line.strip()]
    return [texts_of(row, form) for row in parsed]


def survives(tokenizer: Any, text: str) -> bool:
    """Whether tokens give back the text: a tokenizer that eats spaces does not.

    Unicode composition is left aside, since some tokenizers normalise it on purpose.
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return normalize("NFKC", back).strip() == normalize("NFKC", text).strip()


def on_cpu() -> bool:
    """The mends for a CPU below are for a CPU only."""
    return not torch.cuda.is_available()
