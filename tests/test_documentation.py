"""The documents say what the code does."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from finlora_core.adapters.serving import Engine, Trait, engines
from finlora_core.runs.config import RunRequest
from finlora_core.runs.status import TRANSITIONS
from finlora_core.settings import Settings

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_in_the_readme_with_its_default(name: str) -> None:
    variable = f"`FINLORA_{name.upper()}`"
    rows = [line for line in _lines("README.md") if line.startswith(f"| {variable} |")]
    assert len(rows) == 1, f"{variable} has {len(rows)} rows in the README's table"
    default = Settings.model_fields[name].default
    if isinstance(default, int | float):
        assert rows[0].split("|")[2].strip() == f"`{default:g}`"


@pytest.mark.parametrize("key", sorted(RunRequest.model_fields))
def test_every_key_of_a_run_config_is_in_the_documentation(key: str) -> None:
    assert any(line.startswith(f"| `{key}` |") for line in _lines("docs/api.md"))


def test_the_drawn_state_machine_is_the_one_in_the_code() -> None:
    drawn = {
        tuple(line.strip().split(":")[0].split(" --> "))
        for line in _lines("docs/state_machine.md")
        if " --> " in line and "[*]" not in line
    }
    assert drawn == {(old.value, new.value) for old, news in TRANSITIONS.items() for new in news}


def test_the_tables_of_the_engines_are_the_ones_in_the_data() -> None:
    wanted = [line for engine in engines() for line in _table(engine)]
    written = _lines("docs/serving.md")
    begin = written.index(wanted[0])
    assert written[begin : begin + len(wanted)] == wanted, "\n".join(wanted)


@pytest.mark.parametrize("trait", Trait)
def test_every_trait_that_engines_differ_in_is_explained(trait: Trait) -> None:
    rows = [line for line in _lines("docs/serving.md") if line.startswith(f"| `{trait}` | ")]
    assert any(line.count("|") == 3 for line in rows)


def _table(engine: Engine) -> Iterator[str]:
    """An engine's section; that of older releases has what differs from those above it."""
    alike = [it for it in engines() if it.name == engine.name]
    place = alike.index(engine)
    above = alike[place - 1].facts if place else {}
    yield from (f"### {engine.name} {engine.releases}", "", f"Read: {', '.join(engine.read)}.")
    if place:
        yield f"The rest as in {alike[place - 1].releases}."
    yield from ("", "| trait | verdict | why | source |", "| --- | --- | --- | --- |")
    if engine.ranks and not place:
        low, *more = engine.ranks
        ranks = f"{low} unless told otherwise; {', '.join(map(str, sorted(more)))}"
        yield f"| rank | ok | {ranks} | {engine.rank_source} |"
    for trait, fact in engine.facts.items():
        if fact != above.get(trait):
            yield f"| `{trait}` | {fact.verdict} | {fact.why} | {fact.source} |"
    yield ""


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def _lines(document: str) -> list[str]:
    return (ROOT / document).read_text().splitlines()
