"""What an output says: a label, a letter, a number, tags, words."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

_LETTER = re.compile(
    r"""
    \A\W*([A-Z])\b                    # the output begins with it: "B", "(B) because", "B Asking …"
    | (?<!\w)([A-Z])(?=[.):,*\]]|\s*$)  # or it stands alone before a mark or a line's end
    """,
    re.VERBOSE | re.MULTILINE,
)

_NUMBER = re.compile(
    r"""
    (?P<open>(?<!\w)\(\s*)?           # (5) is -5, unless it is f(5)
    (?P<minus>(?<!\w)-)?              # not the dash of 2019-2020, nor of a list
    (?:(?:US)?[$€£¥₹]\s?)?
    (?P<minus_after>-)?               # $-5
    (?<![\w.])                        # not the 3 of Q3
    (?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
    (?P<exponent>[eE][+-]?\d{1,3}(?!\d))?
    (?P<percent>\s?%)?
    (?P<close>\s*\))?
    """,
    re.VERBOSE,
)

_MINUS_SIGNS = str.maketrans("−﹣－", "---")  # noqa: RUF001  # what else prints as a minus

_MARKUP = re.compile(r"\*\*|`")
"""Around bold text and code."""

_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"

_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W_])+")

_NO_OPERATOR_BEFORE = r"(?<![*/+^])(?<![*/+^]\()(?<!\d\.)"
_NO_OPERATOR_AFTER = r"(?![*/+^])(?!\)[*/+^])(?!\.\d)"
"""Nor the point of a decimal number."""

_SPACES = re.compile(r"\s*([^\w\s])\s*|\s+")


def first_label(text: str, labels: Mapping[str, str]) -> str | None:
    """What the leftmost key of `labels` in `text` means; of several at one place, the longest.

    Keys are casefolded, as `spellings` makes them. A key inside a longer one does not count: the
    longer begins before it or at the same place.
    """
    text = text.casefold()
    lengths = sorted({len(key) for key in labels}, reverse=True)
    for start in range(len(text)):
        for length in lengths:
            if (label := labels.get(text[start : start + length])) is not None:
                return label
    return None


def spellings(labels: Sequence[str], aliases: Mapping[str, str]) -> Mapping[str, str]:
    """Label by casefolded spelling."""
    written = {label: label for label in labels} | dict(aliases)
    return {spelling.strip().casefold(): label for spelling, label in written.items()}


def first_letter(text: str, letters: Sequence[str]) -> str | None:
    """The choice that `text` names: of "B. Because", "The answer is B" or "(B)" it is B.

    Capital letters only, and never one in the middle of a sentence: "A" is also a word.
    """
    found = (match[1] or match[2] for match in _LETTER.finditer(text))
    return next((letter for letter in found if letter in letters), None)


def first_number(text: str) -> tuple[Decimal, bool] | None:
    """The first number in `text`, and whether a percent sign follows it.

    Read are thousands in commas, a currency sign before it, an exponent, a minus sign of any
    kind, and parentheses around it as a minus. A percent sign changes nothing in the number.
    """
    match = _NUMBER.search(text.translate(_MINUS_SIGNS))
    if match is None:
        return None
    number = Decimal(match["digits"].replace(",", "") + (match["exponent"] or ""))
    in_parentheses = match["open"] and match["close"]
    is_negative = match["minus"] or match["minus_after"] or in_parentheses
    # copied: the minus operator would round to 28 digits
    return number.copy_negate() if is_negative else number, bool(match["percent"])


def words_of(text: str) -> list[str]:
    """Of Chinese and Japanese, which write no spaces, each character."""
    return _WORD.findall(text.casefold())


def tags_of(text: str) -> Sequence[str]:
    """Between commas, without line breaks and the space around them."""
    return [tag.replace("\n", "").strip() for tag in text.split(",")]


def stands_in(target: str, text: str) -> bool:
    """Whether `target` is in `text`, whatever the case and the spacing.

    Not inside a longer word or number, and not as an operand of a longer formula: `a / b` is
    not in `(a / b) * 100`.
    """
    sought = _plain(target)
    before = r"(?<!\w)" if re.match(r"\w", sought) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", sought) else ""
    whole = f"{before}{_NO_OPERATOR_BEFORE}{re.escape(sought)}{after}{_NO_OPERATOR_AFTER}"
    return bool(sought) and re.search(whole, _plain(text)) is not None


def _plain(text: str) -> str:
    """Without space around signs, one between words."""
    spaced = _SPACES.sub(lambda match: match[1] or " ", _MARKUP.sub("", text))
    return spaced.strip().casefold()
