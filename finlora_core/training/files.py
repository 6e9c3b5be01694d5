"""Where a run's files lie on the worker that trains it.

runs/run_…/
  lock                                  held while a process of the run lives on this host
  attempt-2/                            the only place that attempt's processes write to
  checkpoints/attempt-1/checkpoint-120/ judged whole by the supervisor, and marked
  set_aside/…                           checkpoints that did not load
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

ATTEMPT_DIR = "FINLORA_ATTEMPT_DIR"
"""The variable that tells the plugin inside the training process its attempt's folder."""


@dataclass(frozen=True)
class RunFiles:
    """What outlives an attempt."""

    root: Path

    @classmethod
    def of(cls, runs: Path, run_id: str) -> "RunFiles":
        return cls(runs / run_id)

    @property
    def lock(self) -> Path:
        """Locked by every process of an attempt: two attempts cannot overlap on one host."""
        return self.root / "lock"

    @property
    def checkpoints(self) -> Path:
        """Whole checkpoints, one folder an attempt. Only the supervisor writes here."""
        return self.root / "checkpoints"

    @property
    def set_aside(self) -> Path:
        """Checkpoints that were marked whole and yet did not load."""
        return self.root / "set_aside"

    def discard_checkpoints(self) -> None:
        for folder in (self.checkpoints, self.set_aside):
            shutil.rmtree(folder, ignore_errors=True)

    def attempt(self, number: int) -> "AttemptFiles":
        return AttemptFiles(self.root / f"attempt-{number}")


@dataclass(frozen=True)
class AttemptFiles:
    """Each attempt has its own folder, so that a lost one cannot spoil its successor."""

    root: Path

    @classmethod
    def of(cls, runs: Path, run_id: str, attempt: int) -> "AttemptFiles":
        return RunFiles.of(runs, run_id).attempt(attempt)

    @property
    def config(self) -> Path:
        """What Axolotl reads."""
        return self.root / "axolotl.yaml"

    @property
    def log(self) -> Path:
        """Everything the attempt's processes print."""
        return self.root / "train.log"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, each time the trainer logs."""
        return self.root / "metrics.jsonl"

    @property
    def progress(self) -> Path:
        """The newest step, replaced as a whole."""
        return self.root / "progress.json"

    @property
    def judging(self) -> Path:
        """The task that a training is judged by at its saves; not there when there is none."""
        return self.root / "judging.json"

    @property
    def errand(self) -> Path:
        """What an evaluation's process is to do."""
        return self.root / "errand.json"

    @property
    def answers(self) -> Path:
        """One JSON object a line: what it has answered."""
        return self.root / "answers.jsonl"

    @property
    def failure(self) -> Path:
        """Why the process refused to go on, as a code and a hint."""
        return self.root / "failure.json"

    @property
    def completed(self) -> Path:
        """Written last of all, when all is done and saved."""
        return self.root / "completed.json"

    @property
    def saved(self) -> Path:
        """One JSON object a line: the step of each checkpoint the trainer has finished saving."""
        return self.root / "saved.jsonl"

    @property
    def stop_requested(self) -> Path:
        """Made by the supervisor: save a checkpoint at the next step boundary, and stop."""
        return self.root / "stop_requested"

    @property
    def stopped(self) -> Path:
        """The plugin's answer to it, written last of all: the step that was saved."""
        return self.root / "stopped.json"

    @property
    def cwd(self) -> Path:
        """Empty: Python puts the working directory on its path, and nothing may hide there."""
        return self.root / "cwd"

    @property
    def prepared(self) -> Path:
        return self.root / "prepared"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def cache(self) -> Path:
        """HOME and every library's cache."""
        return self.root / "cache"

    def create(self) -> None:
        """A fresh folder; what a claim of the same attempt may have left is cleared."""
        shutil.rmtree(self.root, ignore_errors=True)
        for folder in (self.cwd, self.cache):
            folder.mkdir(parents=True)

    def forget(self) -> None:
        """What a training of this attempt said before it is started once more."""
        said = (self.progress, self.failure, self.saved, self.stopped, self.completed)
        for file in (*said, self.stop_requested):
            file.unlink(missing_ok=True)

    def discard_scratch(self) -> None:
        """Keep the YAML, the log and the metrics; drop what takes space."""
        for folder in (self.cwd, self.prepared, self.output, self.cache):
            shutil.rmtree(folder, ignore_errors=True)
