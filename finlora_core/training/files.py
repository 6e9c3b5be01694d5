"""The folder of one attempt: the only place a training process writes to."""

import shutil
from dataclasses import dataclass
from pathlib import Path

ATTEMPT_DIR = "FINLORA_ATTEMPT_DIR"
"""The variable that tells the plugin inside the training process its attempt's folder."""


@dataclass(frozen=True)
class AttemptFiles:
    """Each attempt has its own folder, so that a lost one cannot spoil its successor."""

    root: Path

    @classmethod
    def of(cls, runs: Path, run_id: str, attempt: int) -> "AttemptFiles":
        return cls(runs / run_id / f"attempt-{attempt}")

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
    def failure(self) -> Path:
        """Why the plugin refused to train, as a code and a hint."""
        return self.root / "failure.json"

    @property
    def completed(self) -> Path:
        """Written last of all, after Axolotl has saved the adapter."""
        return self.root / "completed.json"

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

    def discard_scratch(self) -> None:
        """Keep the YAML, the log and the metrics; drop what takes space."""
        for folder in (self.cwd, self.prepared, self.output, self.cache):
            shutil.rmtree(folder, ignore_errors=True)
