"""JSON from strangers: of a key that stands twice, readers disagree which one counts."""

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """Raises `ValueError`, or `RecursionError` for what is nested too deeply."""
    return json.loads(text, object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return found
