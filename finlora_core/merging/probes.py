"""The rows that a merged model is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sqlalchemy.orm import Session

from finlora_core.datasets.cache import DatasetChecker
from finlora_core.datasets.check import DatasetFacts, detect_form
from finlora_core.datasets.locate import find_dataset
from finlora_core.db.models import Adapter, Run
from finlora_core.errors import DatasetNotFound, InvalidDataset
from finlora_core.evaluation.sets import Row, rows_of
from finlora_core.runs.config import PromptFormat
from finlora_core.settings import Settings

ROWS = 16
TOKENS = 256
"""Of each row at most."""

OWN = Path(__file__).with_name("probe.jsonl")
"""Sentences as FinLoRA's tasks have them, made up for this."""


@dataclass(frozen=True)
class Probe:
    written: str | None
    """Its path, as a person would write it; None for the service's own."""
    path: Path
    form: PromptFormat
    facts: DatasetFacts

    @property
    def rows(self) -> Sequence[Row]:
        return list(islice(rows_of(self.path, self.form), ROWS))


def find_probe(
    written: str | None, owner: str, settings: Settings, checker: DatasetChecker
) -> Probe:
    """Raises `DatasetNotFound`, `InvalidDataset`."""
    path = find_dataset(written, owner, settings) if written else OWN
    form = detect_form(path)
    return Probe(written, path, form, checker.facts(path, form, shown_as=written or OWN.name))


def find_default(
    trained_on: Run | None, owner: str, settings: Settings, checker: DatasetChecker
) -> Probe:
    """What the adapter was trained on, if it is still the same; else the service's own."""
    if trained_on is not None:
        try:
            found = find_probe(trained_on.config["dataset_path"], owner, settings, checker)
            if found.facts.sha256 == trained_on.dataset_sha256:
                return found
        except (DatasetNotFound, InvalidDataset):
            pass
    return find_probe(None, owner, settings, checker)


def training_of(session: Session, adapter: Adapter) -> Run | None:
    """None for an adapter that was made elsewhere."""
    return session.get(Run, adapter.run_id) if adapter.run_id else None
