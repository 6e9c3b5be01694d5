"""The life of a run: the table of transitions, and the diagram that shows it."""

from itertools import product

import pytest

from finlora_core.errors import Conflict, IllegalTransition
from finlora_core.runs import status
from finlora_core.runs.status import TRANSITIONS, RunStatus, require_transition

ALLOWED = {
    ("queued", "running"),
    ("queued", "cancelled"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("running", "queued"),
    ("running", "paused"),
    ("queued", "paused"),
    ("paused", "queued"),
    ("paused", "cancelled"),
}

PAIRS = tuple(product(RunStatus, RunStatus))


@pytest.mark.parametrize(("old", "new"), [pair for pair in PAIRS if pair in ALLOWED])
def test_a_run_moves_along_the_edges_of_the_diagram(old: RunStatus, new: RunStatus) -> None:
    require_transition(old, new)


@pytest.mark.parametrize(("old", "new"), [pair for pair in PAIRS if pair not in ALLOWED])
def test_a_run_moves_nowhere_else(old: RunStatus, new: RunStatus) -> None:
    with pytest.raises(IllegalTransition, match=f"a {old} run cannot become {new}") as caught:
        require_transition(old, new)
    assert isinstance(caught.value, Conflict)


def test_every_status_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(RunStatus)


@pytest.mark.parametrize("each", RunStatus)
def test_a_run_that_has_ended_stays_as_it_is(each: RunStatus) -> None:
    assert each.is_terminal == (each in {"succeeded", "failed", "cancelled"})


def test_the_diagram_shows_the_table() -> None:
    in_table = {(str(old), str(new)) for old, news in TRANSITIONS.items() for new in news}
    assert _edges(status.__doc__ or "") == in_table | {("POST", "queued")}


# How to read a diagram: where each character of a line leads, by the direction it is met in.
RIGHT, LEFT, UP, DOWN = (0, 1), (0, -1), (-1, 0), (1, 0)
TURNS = {
    "┐": {UP: [LEFT], RIGHT: [DOWN]},
    "┌": {UP: [RIGHT], LEFT: [DOWN]},
    "┘": {DOWN: [LEFT], RIGHT: [UP]},
    "└": {DOWN: [RIGHT], LEFT: [UP]},
    "├": {DOWN: [DOWN, RIGHT]},
    "┬": {RIGHT: [RIGHT, DOWN]},
}
NAMES = ("POST", *RunStatus)


def _edges(diagram: str) -> set[tuple[str, str]]:
    """Follows each line that leaves a name to the arrow heads it ends in."""
    grid = diagram.splitlines()[1:]
    grid = grid[1 : grid.index("", 1)]
    places = {
        (row, line.index(name) + offset): name
        for row, line in enumerate(grid)
        for name in NAMES
        if name in line
        for offset in range(len(name))
    }
    found = set()
    for (row, column), name in places.items():
        for step, first in ((RIGHT, "─"), (DOWN, "│└")):
            ahead = 2 if step == RIGHT and (row, column + 1) not in places else 1
            start = (row + ahead * step[0], column + ahead * step[1])
            if _at(grid, start) in first:
                found |= {(name, target) for target in _follow(grid, places, start, step)}
    return found


def _follow(
    grid: list[str], places: dict[tuple[int, int], str], at: tuple[int, int], step: tuple[int, int]
) -> set[str]:
    character = _at(grid, at)
    if character in "►▼":
        ahead = 2 if character == "►" else 1
        return {places[at[0] + ahead * step[0], at[1] + ahead * step[1]]}
    targets: set[str] = set()
    for turn in TURNS.get(character, {}).get(step, [step]):
        targets |= _follow(grid, places, (at[0] + turn[0], at[1] + turn[1]), turn)
    return targets


def _at(grid: list[str], place: tuple[int, int]) -> str:
    row, column = place
    return grid[row][column] if row < len(grid) and column < len(grid[row]) else " "
