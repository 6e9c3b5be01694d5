"""JSON from strangers: nothing that two readers understand differently, or that cannot be kept.

Python's own reader takes a key that stands twice, NaN, 1e999 (as infinity), UTF-16 and half a
surrogate pair; databases, YAML and other readers do not.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from finlora_core.errors import InvalidJSON, InvalidRequest, KeyProblem

MAX_DEPTH = 32
MAX_KEY = 128
"""Characters."""

MAX_PROBLEMS = 20
"""Named in one answer: whoever sends ten thousand wrong keys learns of these."""

INT64_CHARACTERS = 20
"""Of the longest integer of 64 bits, its sign included."""

_UNKEEPABLE = re.compile("[\0\ud800-\udfff]")


class RepeatedKey(ValueError):
    """Of a key that stands twice, readers disagree which one counts."""

    def __init__(self, key: str) -> None:
        super().__init__("a key stands twice")
        self.key = key


def parse(text: str | bytes) -> Any:
    """Raises `ValueError`, or `RecursionError` for what is nested too deeply.

    An integer of very many digits is read as infinity, as a float is."""
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    return json.loads(text, object_pairs_hook=_without_repeats, parse_int=_integer)


def read_body(body: bytes) -> Any:
    """What a request's body says.

    Raises `InvalidJSON`; and `InvalidRequest` naming each key whose value is NaN, infinite, an
    integer beyond 64 bits, or text with NUL or half a surrogate pair.
    """
    try:
        value = parse(body)
    except RepeatedKey as error:
        raise InvalidRequest(_problem((error.key,), "repeated_key", "stands twice")) from None
    except UnicodeDecodeError:
        raise InvalidJSON("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InvalidJSON(f"the body is not JSON: {error.msg}, at {place}") from None
    except RecursionError:
        raise _too_deep() from None
    if problems := tuple(islice(_unkeepable(value, ()), MAX_PROBLEMS)):
        raise InvalidRequest(*problems)
    return value


def is_keepable(text: str) -> bool:
    """Whether every database and every encoding takes it."""
    return _UNKEEPABLE.search(text) is None


def shown(text: str) -> str:
    """Of a key that somebody sent: short, and nothing but what can be encoded."""
    start = text if len(text) <= MAX_KEY else text[:MAX_KEY] + "…"
    return _UNKEEPABLE.sub("\N{REPLACEMENT CHARACTER}", start)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise RepeatedKey(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return found


def _integer(digits: str) -> float:
    """Python refuses to read some thousand digits, without saying where they stand."""
    return int(digits) if len(digits) <= INT64_CHARACTERS else math.inf


def _unkeepable(value: Any, path: tuple[str, ...]) -> Iterator[KeyProblem]:
    if len(path) > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, dict):
        yield from _unkeepable_items(value, path)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _unkeepable(inner, (*path, str(place)))
    elif isinstance(value, str):
        if not is_keepable(value):
            yield _problem(path, "invalid_value", "must be text without NUL and half characters")
    elif value is not None and not -(2**63) <= value < 2**63:  # false for NaN, too
        yield _problem(path, "invalid_value", "must be a finite number that fits into 64 bits")


def _unkeepable_items(items: dict[str, Any], path: tuple[str, ...]) -> Iterator[KeyProblem]:
    for key, inner in items.items():
        if len(key) > MAX_KEY or not is_keepable(key):
            yield _problem((*path, key), "unknown_key", "no key is called so")
        else:
            yield from _unkeepable(inner, (*path, key))


def _problem(path: tuple[str, ...], code: str, message: str) -> KeyProblem:
    return KeyProblem(".".join(map(shown, path)) or "body", code, message)


def _too_deep() -> InvalidJSON:
    return InvalidJSON(f"the body is nested more than {MAX_DEPTH} deep")
