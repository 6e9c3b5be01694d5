"""Compare two models on the same rows."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from finlora_core.cli.adapters import Variant, find_adapter
from finlora_core.cli.results import say_sides
from finlora_core.cli.terminal import Url, connect, say, say_table
from finlora_core.client import Client

IDS = ("adp_", "res_")
BASE = "base"
VERSION = "@"

LONGEST = 60
"""Characters of a target or an output that are shown."""


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="An adapter, a result, or `base`.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other side.")],
    task: Annotated[
        str | None, typer.Option(help="Default: what both have answered last.")
    ] = None,
    variant: Variant = None,
    url: Url = None,
) -> None:
    """Is A better than B on the same rows, or was it chance?

    An adapter is named by its id, or by its name: the newest version, or NAME@VERSION; a result by
    the id that its evaluation shows; `base` is the other side's base model. Adapters and bases
    stand for their newest results on the same rows: `finlora evaluate` makes them.

    \b
    finlora compare sentiment_llama_3_1_8b_8bits_r8 base --task tfns
    finlora compare sentiment_llama_3_1_8b_8bits_r8@2 sentiment_llama_3_1_8b_8bits_r8@1
    finlora compare res_1c0f2a90d3e84b7f9a10_001 res_1c0f2a90d3e84b7f9a10_002
    """
    with connect(url) as client:
        sides = [_side(client, each, variant) for each in (a, b)]
        found = client.create_comparison(sides[0], sides[1], task)
        say_sides(client, found["a"], found["b"])
    say()
    say(found["verdict"], style="bold")
    for line in _grounds(found):
        say(line)
    if found["examples"]:
        say()
        say_table(("line", "target", "A", "B"), [_row(each) for each in found["examples"]])


def _side(client: Client, wanted: str, variant: str | None) -> str:
    if wanted == BASE or wanted.startswith(IDS):
        return wanted
    name, _, version = wanted.partition(VERSION)
    if version and not version.isdecimal():
        raise typer.BadParameter(f"{wanted!r}: behind {VERSION} stands a version, such as 2")
    id: str = find_adapter(client, name, variant, int(version) if version else None)["id"]
    return id


def _grounds(found: Mapping[str, Any]) -> list[str]:
    changed = f"{found['changed_rows']} of {found['rows']} rows changed ({found['id']})"
    split = found["mcnemar"]
    if split is None:
        return [changed]
    return [
        f"A alone is right in {split['only_a']} rows, B alone in {split['only_b']} "
        f"(McNemar's exact test: p = {split['p_value']:.2g})",
        changed,
    ]


def _row(changed: Mapping[str, Any]) -> tuple[object, ...]:
    texts = (changed["target"], changed["a_output"], changed["b_output"])
    return changed["line"], *map(_short, texts)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 2]} …"
