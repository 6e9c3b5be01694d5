"""The same thing, by its name here and by the one that OpenAI's clients expect."""

import re

from finlora_core.errors import NotFound

FILE, JOB, EVENT, CHECKPOINT, RESULT = "file-", "ftjob-", "ftevent-", "ftckpt-", "file-result-"

_NATIVE = {FILE: "dataset_", JOB: "run_"}
_IDS = re.compile(r"\b(dataset|run)_[0-9a-f]{20}\b")
_KINDS = {FILE: "file", JOB: "fine-tuning job", EVENT: "event", CHECKPOINT: "checkpoint"}


def shown(native: str) -> str:
    """`dataset_…` as `file-…`, `run_…` as `ftjob-…`; what has no other name stays as it is."""
    for prefix, ours in _NATIVE.items():
        if native.startswith(ours):
            return prefix + native.removeprefix(ours)
    return native


def in_words(message: str) -> str:
    """A sentence of the core's, with the ids as they are here."""
    return _IDS.sub(lambda id: shown(id[0]), message)


def native(prefix: str, id: str) -> str:
    """Raises `NotFound`, in OpenAI's words."""
    if not id.startswith(prefix):
        raise NotFound(_KINDS[prefix], id)
    return _NATIVE[prefix] + id.removeprefix(prefix)


def number(prefix: str, id: str) -> int:
    """Of an event, which is a row's. Raises `NotFound`."""
    digits = id.removeprefix(prefix)
    if not (id.startswith(prefix) and digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise NotFound(_KINDS[prefix], id)
    return int(digits)
