"""Writes the demo's data set: financial sentences with their sentiment, from a small grammar.

`python -m demo.make_data [FOLDER]` writes `sentiment_train.jsonl` and `sentiment_heldout.jsonl`;
the same code always writes the same bytes. Every company and person is invented.

A sentence is a lead and a tail of one family (results, costs, orders, …) with its slots filled.
Three splits are kept apart: `train`, `heldout`, and `base`, from which `demo.tiny_base` takes
unlabelled text. `data/README.md` says what they share and what they do not.
"""

import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType

from demo.grammar import COMPANIES, FAMILIES, NUMBERS, PAIRS, PEOPLE, SLOTS, Family, Label, Split

FILES: Mapping[str, str] = MappingProxyType(
    {"train": "sentiment_train.jsonl", "heldout": "sentiment_heldout.jsonl"}
)
ROWS_PER_LABEL: Mapping[str, int] = MappingProxyType({"train": 480, "heldout": 100})

# The prompt of FinLoRA's sentiment sets; Axolotl puts "[INST] … [/INST]" around it.
CONTEXT = (
    "Instruction: What is the sentiment of this news? "
    "Please choose an answer from {{negative/neutral/positive}}.\n"
    "Input: {sentence}\n"
    "Answer: "
)


@dataclass(frozen=True)
class Row:
    """One line of a data file, in FinLoRA's form."""

    context: str
    target: Label

    @classmethod
    def of(cls, sentence: str, target: Label) -> "Row":
        """The row that asks for a sentence's sentiment."""
        return cls(CONTEXT.format(sentence=sentence), target)

    def line(self) -> str:
        """The row as a JSON line, with its newline."""
        return json.dumps({"context": self.context, "target": str(self.target)}) + "\n"


class Writer:
    """Fills the slots of one sentence, with the names and numbers of one split.

    A slot that is bound (`company`, `low`, `high`, …) keeps its value within the sentence.
    """

    def __init__(self, split: Split, rng: random.Random) -> None:
        self._split = split
        self._rng = rng
        self._bound = self._bind()

    def fill(self, template: str) -> str:
        """The template with all its slots, and the slots inside those, filled."""
        while "{" in template:
            template = re.sub(r"\{(\w+)\}", self._slot, template)
        return template

    def _slot(self, found: re.Match[str]) -> str:
        slot = found[1]
        return self._bound[slot]() if slot in self._bound else self._rng.choice(SLOTS[slot])

    def _bind(self) -> dict[str, Callable[[], str]]:
        company, other = self._rng.sample(COMPANIES[self._split], 2)
        low, high = self._amounts()
        return {
            "company": lambda: company,
            "other": lambda: other,
            "low": lambda: low,
            "high": lambda: high,
            "person": lambda: self._rng.choice(PEOPLE[self._split]),
            "percent": lambda: f"{self._number(11, 480) / 10:.1f}%",
            "count": lambda: f"{self._number(30, 4800):,}",
            "date": lambda: f"{self._number(1, 28)} {{month}}",
        }

    def _amounts(self) -> tuple[str, str]:
        low = self._number(12, 4000)
        high = self._number(low + 8, 2 * low + 80)
        unit = self._rng.choice(("EUR {} mn", "EUR {} million", "${} million", "GBP {} mn"))
        return unit.format(f"{low / 10:.1f}"), unit.format(f"{high / 10:.1f}")

    def _number(self, lowest: int, highest: int) -> int:
        """An integer from lowest to highest that this split may use."""
        while True:
            number = self._rng.randint(lowest, highest)
            if number % 4 in NUMBERS[self._split]:
                return number


def pairs(family: Family, split: Split) -> list[tuple[str, str]]:
    """The family's combinations of lead and tail that the split may use."""
    indices = product(range(len(family.leads)), range(len(family.tails)))
    return [
        (family.leads[lead], family.tails[tail])
        for lead, tail in indices
        if (lead + tail) % 4 in PAIRS[split]
    ]


def sentence(label: Label, split: Split, rng: random.Random) -> str:
    """One sentence of the label, drawn with `rng`."""
    lead, tail = rng.choice(pairs(rng.choice(FAMILIES[label]), split))
    text = Writer(split, rng).fill(lead + tail)
    return f"{text[0].upper()}{text[1:]}."


def sentences(label: Label, split: Split, rng: random.Random) -> Iterator[str]:
    """Sentences of the label without end and without repetition."""
    seen: set[str] = set()
    while True:
        text = sentence(label, split, rng)
        if text not in seen:
            seen.add(text)
            yield text


def rows(split: Split) -> list[Row]:
    """All rows of a split that has a file, the labels equally often and in mixed order."""
    rng = random.Random(f"finlora demo {split}")  # noqa: S311 - repeatable, not secret
    drawn = [
        Row.of(next(source), label)
        for label in Label
        for source in [sentences(label, split, rng)]
        for _ in range(ROWS_PER_LABEL[split])
    ]
    rng.shuffle(drawn)
    return drawn


def write(folder: Path) -> list[Path]:
    """Writes both files into the folder, which is made if need be; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for split, name in FILES.items():
        text = "".join(row.line() for row in rows(Split(split)))
        (folder / name).write_bytes(text.encode())
        written.append(folder / name)
    return written


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data"
    for path in write(target):
        print(path)
