"""Which of the known names somebody may have meant."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

CLOSE_NAMES = 5
"""How many are shown for a name that is not there."""


def suggest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """Which names may have been meant, and how many there are."""
    containing = [each for each in known if name and name.lower() in each.lower()]
    near = get_close_matches(name, known, n=CLOSE_NAMES, cutoff=0.5)
    close = list(dict.fromkeys([*containing, *near]))[:CLOSE_NAMES]
    if not known:
        return "there are none"
    shown = close or list(known)[:CLOSE_NAMES]
    words = "close to it" if close else "the first"
    return f"{words} of {len(known)}: {', '.join(shown)}"
