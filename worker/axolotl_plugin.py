"""Runs inside the training process: metrics, progress, checks, checkpoints, the end's marker.

Axolotl loads it by name from the YAML. Beside the YAML the worker tells the process only
the attempt's folder (FINLORA_ATTEMPT_DIR) and how often to save (FINLORA_CHECKPOINT_SECONDS);
what the training is judged by lies in that folder.
A plugin that fails to import is only logged by Axolotl; then the marker is missing,
and the worker takes that for a failure.
"""

import json
import logging
import os
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn
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
from finlora_core.errors import Invalid
from finlora_core.evaluation.tasks import task_or_metric
from finlora_core.runs.config import PromptFormat
from finlora_core.training.best import latest
from finlora_core.training.checkpoints import CHECKPOINT_SECONDS
from finlora_core.training.diagnose import FailureCode
from finlora_core.training.files import ATTEMPT_DIR, AttemptFiles
from worker.aside import without_a_draw
from worker.cpu_mends import keep_4bit_unpacked, keep_int8_scales
from worker.errand import Judging
from worker.judge import Exam, Judge, make_exam
from worker.loading import Prompts, count_quantized
from worker.probe import probe, rows_of
from worker.processes import is_first_process, of_first_process
from worker.reporter import Reporter
from worker.tail import write_json


class FinLoRAPlugin(BasePlugin):  # type: ignore[misc]
    """The hooks, in the order Axolotl calls them."""

    def __init__(self) -> None:
        super().__init__()
        self._files = AttemptFiles(Path(os.environ[ATTEMPT_DIR]))
        self._facts: dict[str, Any] = {}
        self._checkpoints = Checkpoints(self._files, float(os.environ[CHECKPOINT_SECONDS]))
        self._reporter = Reporter(self._files, self._facts, self._checkpoints.was_asked_to_stop)
        self._judge: Judge | None = None
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
            keep_4bit_unpacked(model)

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
        trainer.evaluate = without_a_draw(trainer.evaluate)
        # the supervisor takes checkpoints away: the trainer's own rotation would fall over a
        # folder that vanishes while it looks
        trainer.args.save_total_limit = None
        self._checkpoints.resumed_from = cfg.resume_from_checkpoint
        if self._files.judging.is_file():
            self._judge = self._make_judge(cfg, trainer)
            trainer.add_callback(self._judge)
        trainer.add_callback(self._checkpoints)
        trainer.add_callback(self._reporter)
        self._probed = rows_of(trainer.train_dataset)

    def post_train(self, cfg: Any, model: torch.nn.Module) -> None:
        """Called twice: first while the model is in memory as it was trained."""
        if "probe" in self._facts or self._checkpoints.was_asked_to_stop():
            return
        if self._judge is not None:
            best = self._judge.take_best(model)
            self._facts["best"] = best.model_dump(mode="json")
            self._facts["metrics"] |= latest(self._judge.history, up_to=best.step)
        self._facts["probe"] = probe(model, self._probed)

    def post_train_unload(self, cfg: Any) -> None:
        """Called last, after the adapter has been saved."""
        if not is_first_process():
            return
        if not self._checkpoints.was_asked_to_stop():
            write_json(self._files.completed, self._facts)
        else:
            write_json(self._files.stopped, {"step": self._checkpoints.stopped_at})

    def _make_judge(self, cfg: Any, trainer: Any) -> Judge:
        judging = Judging.model_validate_json(self._files.judging.read_text())
        prompts = Prompts(trainer.processing_class)
        return Judge(
            self._files,
            self._make_exam(cfg, trainer.eval_dataset, prompts, judging.task),
            prompts,
            patience=judging.patience,
            resumed_from=cfg.resume_from_checkpoint,
            reporter=self._reporter,
        )

    def _make_exam(self, cfg: Any, rows: Any, prompts: Prompts, task: str) -> Exam:
        try:
            return make_exam(
                task_or_metric(task),
                rows or (),
                prompts,
                seed=cfg.seed,
                is_chat=form_of(cfg) is PromptFormat.CHAT,
                tokens_at_once=cfg.micro_batch_size * cfg.sequence_len,
            )
        except Invalid as error:
            self._refuse(FailureCode.NOTHING_TO_JUDGE, str(error))

    def _refuse(self, code: FailureCode, detail: str) -> NoReturn:
        write_json(self._files.failure, {"code": code.value, "detail": detail})
        raise SystemExit(f"{code.value}: {detail}")


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

    def was_asked_to_stop(self) -> bool:
        return self.stopped_at is not None

    def _stop(self, state: TrainerState, control: TrainerControl) -> None:
        """Whoever waits for it waits for no evaluation: going on begins with one."""
        control.should_save = control.should_log = control.should_training_stop = True
        control.should_evaluate = False
        self.stopped_at = state.global_step


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
