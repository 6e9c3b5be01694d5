"""What has been received becomes a dataset, if all of it can be trained on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finlora_core.datasets.check import DatasetFacts, check_dataset, detect_form
from finlora_core.datasets.files import MIB, PART_ID, Incoming
from finlora_core.errors import InvalidDataset, InvalidRequest, KeyProblem
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


def assemble(
    folder: Path, ids: Sequence[str], incoming: Incoming, size: int, md5: str | None
) -> None:
    """The parts one after the other. Raises `InvalidRequest` unless they are the file."""
    digest = hashlib.md5(usedforsecurity=False)
    for id in ids:
        part = folder / id
        if not PART_ID.fullmatch(id) or not part.is_file():
            raise _wrong("part_ids", f"there is no part {id!r} of this upload")
        with part.open("rb") as content:
            while chunk := content.read(MIB):
                digest.update(chunk)
                incoming.write(chunk)
    if incoming.size != size:
        raise _wrong("part_ids", f"they have {incoming.size} bytes; {size} were announced")
    if md5 is not None and digest.hexdigest() != md5.lower():
        raise _wrong("md5", f"that of what has come is {digest.hexdigest()}")


def _wrong(key: str, message: str) -> InvalidRequest:
    return InvalidRequest(KeyProblem(key, "invalid_value", message))
