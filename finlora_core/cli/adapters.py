"""Adapters: of a service, list, fetch and promote them; on this machine, check and import them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.adapters import imports, registry
from finlora_core.adapters.imports import Outcome, Result
from finlora_core.adapters.store import AdapterStore
from finlora_core.adapters.verify import verify as find_problems
from finlora_core.cli.progress import MB, reporting, reporting_bytes
from finlora_core.cli.terminal import Commands, Url, connect, console, errors, say, say_table
from finlora_core.client import Client
from finlora_core.db.migrate import migrate
from finlora_core.db.session import Database
from finlora_core.errors import AmbiguousAdapter, UnknownName
from finlora_core.settings import load_settings
from finlora_core.stages.stage import Stage
from finlora_core.suggest import suggest

app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="List, fetch, promote, verify and import adapters."
)

NEWEST = 1000
"""Adapters that are looked at for a name."""

SHOWN = (
    "name", "variant", "version", "stage", "base_model", "run_id", "created_at", "damage"
)  # fmt: skip

Wanted = Annotated[str, typer.Argument(metavar="NAME|ID", help="An adapter's id, or a name.")]
Variant = Annotated[str | None, typer.Option(help="Such as 8bits_r8_dora.")]
Version = Annotated[int | None, typer.Option(min=1, help="Default: the newest.")]


@app.command(name="list")
def list_adapters(
    name: Annotated[str | None, typer.Argument(help="Only adapters of this name.")] = None,
    variant: Variant = None,
    stage: Annotated[Stage | None, typer.Option(help="Only adapters in this stage.")] = None,
    url: Url = None,
) -> None:
    """List adapters, the newest first.

    \b
    finlora adapters list
    finlora adapters list --variant 8bits_r8_dora
    finlora adapters list sentiment_llama_3_1_8b_8bits_r8 --stage production
    """
    with connect(url) as client:
        found = client.list_adapters(name=name, variant=variant, stage=stage, limit=NEWEST)
    rows = [
        (a["id"], a["variant"], a["name"], a["version"], a["stage"], f"{a['size'] / MB:.1f} MB",
         a["created_at"][:16], a["base_model"], "damaged" if a.get("damage") else "")
        for a in found
    ]  # fmt: skip
    heads = ("adapter", "variant", "name", "version", "stage", "size", "created", "base model", "")
    say_table(heads, rows)


@app.command()
def show(
    wanted: Wanted, variant: Variant = None, version: Version = None, url: Url = None
) -> None:
    """Show one adapter: the SHA-256 of each of its files, how it came to its stage, and which
    engines can serve it.

    \b
    finlora adapters show sentiment_llama_3_1_8b_8bits_r8 --version 2
    """
    with connect(url) as client:
        adapter = client.get_adapter(find_adapter(client, wanted, variant, version)["id"])
    say(adapter["id"], style="bold")
    for key in SHOWN:
        if adapter.get(key) is not None:
            say(f"  {key:<10} {adapter[key]}")
    say_table(
        ("file", "bytes", "sha256"),
        [(file["path"], file["size"], file["sha256"]) for file in adapter["files"]],
    )
    if adapter["moves"]:
        say()
        say_table(("moved", "from", "to", "because"), [_move_row(m) for m in adapter["moves"]])
    if adapter.get("serving"):
        _say_serving(adapter["serving"])


@app.command()
def promote(
    wanted: Wanted,
    stage: Annotated[Stage, typer.Argument(metavar="STAGE", help="One step from its own.")],
    comparison: Annotated[
        str | None,
        typer.Option(metavar="ID", help="What shows that it is better. Default: the newest."),
    ] = None,
    override: Annotated[
        str | None, typer.Option(metavar="REASON", help="Promote it all the same; kept with it.")
    ] = None,
    variant: Variant = None,
    version: Version = None,
    url: Url = None,
) -> None:
    """Move an adapter one stage on, or back: candidate, staging, production.

    Into production goes one that `finlora compare` has found better than the adapter of its
    name that is there; the first one, than its base model. The one that was there goes back
    to staging.

    \b
    finlora adapters promote sentiment_llama_3_1_8b_8bits_r8 staging
    finlora adapters promote sentiment_llama_3_1_8b_8bits_r8 production
    finlora adapters promote adp_8f0c1d0c4a8b4e2f9d11_1 production --override "half as large"
    """
    why = {"comparison_id": comparison, "override": override}
    with connect(url) as client:
        adapter = find_adapter(client, wanted, variant, version)
        moved = client.move_adapter(adapter["id"], stage, **why)
    say(f"{moved['name']} version {moved['version']}, {moved['id']}: {moved['stage']}")


@app.command()
def pull(
    wanted: Wanted,
    variant: Variant = None,
    version: Version = None,
    to: Annotated[Path, typer.Option(help="Where its folder is put.")] = Path(),
    merged: Annotated[
        bool, typer.Option("--merged", help="The model that its newest merge has made.")
    ] = False,
    url: Url = None,
) -> None:
    """Download an adapter into NAME-vVERSION/ and verify every file.

    Its merged model goes into NAME-vVERSION-merged/. What a broken download has brought is kept:
    the same command goes on from there. The folder appears when everything in it is right.

    \b
    finlora adapters pull sentiment_llama_3_1_8b_8bits_r8
    finlora adapters pull adp_8f0c1d0c4a8b4e2f9d11_1 --to adapters --url http://gpu-box:8000
    """
    with connect(url) as client:
        adapter = find_adapter(client, wanted, variant, version)
        with reporting_bytes(console, adapter["name"]) as report:
            fetch = client.download_merged if merged else client.download
            folder = fetch(adapter["id"], to, report)
    say(f"{folder}: {len(list(folder.iterdir()))} files, every SHA-256 agrees")


@app.command()
def verify(
    wanted: Annotated[
        str, typer.Argument(metavar="DIR|ID", help="A folder, or an id in this machine's store.")
    ],
) -> None:
    """Read an adapter's files again and compare them with its manifest.

    Finds any one flipped bit, names the file, and exits with 1. With an id, also the
    manifest is compared with what the database says of it.

    \b
    finlora adapters verify lora_adaptors/8bits_r8/sentiment_llama_3_1_8b_8bits_r8
    finlora adapters verify adp_8f0c1d0c4a8b4e2f9d11_1
    """
    folder, manifest_sha256 = Path(wanted), None
    if not folder.is_dir():
        folder, manifest_sha256 = _stored(wanted)
    with reporting(errors, folder.name) as report:
        problems = find_problems(
            folder,
            manifest_sha256,
            lambda path, done, size: report(done, size, f"{path}  {done / MB:.1f} MB"),
        )
    for problem in problems:
        say(str(problem))
    if problems:
        raise typer.Exit(1)
    say(f"{folder}: every file is what was published")


@app.command(name="import")
def import_adapters(
    folder: Annotated[Path, typer.Argument(help="An adapter, or a tree of them.")],
    owner: Annotated[str, typer.Option(help="Whose they are to be.")] = DEFAULT_OWNER,
) -> None:
    """Register adapters made elsewhere, after the checks that trained ones get.

    Takes one adapter's folder, or a FinLoRA tree (lora_adapters/8bits_r8/NAME/ ...). Works
    on the database and the store of this machine's settings, as `finlora migrate` does.

    \b
    finlora adapters import ~/FinLoRA/lora_adapters
    """
    settings = load_settings()
    database = Database.connect(settings.database)
    migrate(database)
    results = imports.import_tree(
        database,
        AdapterStore(settings.adapters),
        folder,
        models=settings.models,
        owner=owner,
        report=_say_result,
    )
    database.close()
    refused = sum(result.outcome is Outcome.REFUSED for result in results)
    say(f"{len(results)} found, {refused} refused")
    if refused:
        raise typer.Exit(1)


def _move_row(move: Mapping[str, Any]) -> tuple[str, ...]:
    reasons = {
        "comparison_id": "compared by",
        "override": "override:",
        "replaced_by": "replaced by",
    }
    said = (f"{words} {move[key]}" for key, words in reasons.items() if move[key])
    return move["at"][:16], move["old"], move["new"], ", ".join(said)


def _say_serving(verdicts: Sequence[dict[str, Any]]) -> None:
    """Who can serve it; below, how, each command with the first releases that it is for."""
    say()
    say_table(
        ("engine", "releases", "serving", "why"),
        [(v["engine"], v["releases"], v["verdict"], "; ".join(v["reasons"])) for v in verdicts],
    )
    commands: dict[str, str] = {}
    for verdict in verdicts:
        if verdict["how"]:
            commands.setdefault(verdict["how"], f"{verdict['engine']} {verdict['releases']}")
    say()
    for how, what in commands.items():
        say(f"{what}: {how}")


def find_adapter(
    client: Client, wanted: str, variant: str | None = None, version: int | None = None
) -> dict[str, Any]:
    """By id; or by name, of its only variant the newest version unless told otherwise."""
    if wanted.startswith("adp_"):
        return client.get_adapter(wanted)
    if version is not None:
        return client.list_adapters(name=wanted, variant=variant, version=version)[0]
    named = client.list_adapters(name=wanted, variant=variant, limit=NEWEST)
    if not named:
        known = dict.fromkeys(a["name"] for a in client.list_adapters(limit=NEWEST))
        of_variant = f" of variant {variant}" if variant else ""
        raise UnknownName(
            f"{client.url} has no adapter {wanted!r}{of_variant}; {suggest(wanted, list(known))}"
        )
    variants = sorted({adapter["variant"] for adapter in named})
    if len(variants) > 1:
        raise AmbiguousAdapter(wanted, variants)
    return max(named, key=lambda adapter: int(adapter["version"]))


def _stored(id: str) -> tuple[Path, str | None]:
    """An adapter's folder in this machine's store, and its manifest's SHA-256."""
    settings = load_settings()
    database = Database.connect(settings.database)
    with database.reading() as session:
        adapter = registry.get_any_adapter(session, id)
    database.close()
    return AdapterStore(settings.adapters).folder(id), adapter.manifest_sha256


def _say_result(result: Result) -> None:
    where = f"{result.variant}/{result.name} version {result.version}, {result.adapter_id}"
    words = {
        Outcome.IMPORTED: f"imported as {where}",
        Outcome.ALREADY_THERE: f"is there already: {where}",
        Outcome.REFUSED: f"refused: {result.reason}",
    }
    say("; ".join([f"{result.folder}: {words[result.outcome]}", *result.notes]))
