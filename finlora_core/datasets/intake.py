"""What has been received becomes a dataset, if all of it can be trained on."""

from dataclasses import dataclass

from finlora_core.datasets.check import DatasetFacts, check_dataset, detect_form
from finlora_core.datasets.files import Incoming
from finlora_core.errors import InvalidDataset
from finlora_core.runs.config import PromptFormat


@dataclass(frozen=True)
class Received:
    """A whole, sound file at its place, which no row lists yet."""

    id: str
    form: PromptFormat
    size: int
    """Bytes."""
    facts: DatasetFacts


def take(incoming: Incoming, name: str, form: PromptFormat | None, key: str = "file") -> Received:
    """Checked line by line, on disk, and at its place. Without a `form`, its rows tell theirs.

    Raises `InvalidDataset` about the request's `key`, `InsufficientStorage`.
    """
    incoming.finish()
    form = form or detect_form(incoming.path)
    try:
        facts = check_dataset(incoming.path, form, shown_as=name)
    except InvalidDataset as error:
        raise InvalidDataset(str(error), key) from None
    incoming.publish()
    return Received(incoming.id, form, incoming.size, facts)
