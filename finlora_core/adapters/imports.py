"""Adapters made elsewhere: found in a folder, checked, published, listed.

An import writes a note to disk before it publishes: the files of one that died before its row
was committed are found by it and swept. Those of another database's imports stay.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import IntegrityError

from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.adapters import base, registry
from finlora_core.adapters.card import card
from finlora_core.adapters.check import PICKLES, check_any_adapter, check_folder
from finlora_core.adapters.manifest import (
    CARD,
    CONFIG,
    MANIFEST,
    PUBLISHED,
    WEIGHTS,
    File,
    describe,
    write_manifest,
)
from finlora_core.adapters.peft_config import PeftConfig, name_the_base, read_peft_config
from finlora_core.adapters.registry import Identity
from finlora_core.adapters.stable import link_newest
from finlora_core.adapters.store import AdapterStore
from finlora_core.adapters.verify import verify
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database, now
from finlora_core.errors import InvalidAdapter, NotFound
from finlora_core.runs.config import ModelName, RunName
from finlora_core.training.base_model import find_base_model

MAX_DEPTH = 3
"""`lora_adapters/<variant>/<name>` below the folder given; the first spelt either way."""

TRIES = 5
"""Of the transaction: another version of the name may take the same number."""

_VARIANT = re.compile(r"(4bits|8bits|fp16)_r(\d{1,4})((?:_dora|_rslora)*)(?:_.*)?", re.ASCII)
"""FinLoRA's folders; what follows, as in `8bits_r8_dora_a32`, is a remark."""


class Outcome(StrEnum):
    IMPORTED = "imported"
    ALREADY_THERE = "already_there"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one adapter's folder."""

    folder: str
    """Below the folder that was given; "." for that folder itself."""
    outcome: Outcome
    reason: str = ""
    """Why it was refused."""
    adapter_id: str | None = None
    variant: str | None = None
    name: str | None = None
    version: int | None = None
    notes: Sequence[str] = ()
    """What could not be checked, such as shapes when the base model is not at hand."""


Report = Callable[[Result], None]


def ignore(result: Result) -> None:
    """The report that nobody reads."""


def import_tree(
    database: Database,
    store: AdapterStore,
    folder: Path,
    *,
    models: Sequence[Path] = (),
    owner: str = DEFAULT_OWNER,
    report: Report = ignore,
) -> Sequence[Result]:
    """Import the adapter in `folder`, or every one in a FinLoRA tree below it.

    Each is imported whole or not at all, and those after a refused one are still imported.
    Raises `NotFound` when there is none.
    """
    root = Path(os.path.abspath(folder))  # links followed later: names count, as they are given
    found = list(_find(root))
    if not found:
        raise NotFound("adapter", str(folder))
    results = []
    for path in found:
        results.append(_import_one(database, store, root, path, models, owner))
        report(results[-1])
    return results


def owner_of(database: Database) -> str:
    """Tells this database's notes from those of another that shares the adapters folder."""
    where = database.engine.url.render_as_string(hide_password=True)
    return hashlib.sha256(where.encode()).hexdigest()


def _import_one(
    database: Database,
    store: AdapterStore,
    root: Path,
    folder: Path,
    models: Sequence[Path],
    owner: str,
) -> Result:
    place = str(folder.relative_to(root))
    id = registry.imported_id()
    store.intend(id, owner_of(database))
    try:
        _require_inside(root, folder)
        prepared = _prepare(store, id, folder, models, owner)
    except InvalidAdapter as error:
        store.discard_staged(id)
        store.fulfil(id)
        return Result(folder=place, outcome=Outcome.REFUSED, reason=str(error))
    adapter = _publish(database, store, id, prepared)
    notes = (*prepared.notes, *_link(database, store, adapter))
    if adapter.id != id:
        store.discard(id)
        store.discard_staged(id)
    store.fulfil(id)
    return Result(
        folder=place,
        outcome=Outcome.IMPORTED if adapter.id == id else Outcome.ALREADY_THERE,
        adapter_id=adapter.id,
        variant=adapter.variant,
        name=adapter.name,
        version=adapter.version,
        notes=notes,
    )


def _link(database: Database, store: AdapterStore, adapter: Adapter) -> Sequence[str]:
    """It is listed by now: a link that cannot be made is only said."""
    try:
        link_newest(database, store, adapter.owner, adapter.variant, adapter.name)
    except OSError as error:
        stable = store.stable_path(adapter.owner, adapter.variant, adapter.name)
        return (f"{stable} was not linked: {error.strerror}",)
    return ()


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """Checked and staged, with its card and manifest."""

    staged: Path
    identity: Identity
    notes: Sequence[str]


def _prepare(
    store: AdapterStore, id: str, folder: Path, models: Sequence[Path], owner: str
) -> _Prepared:
    """Raises `InvalidAdapter` with the reason."""
    check_folder(folder)
    origin = _origin(folder)
    staged = store.stage(id, folder)
    peft = read_peft_config(staged / CONFIG)
    base_model = _base_name(peft.base_model, models)
    base_folder = find_base_model(base_model, models)
    sound = check_any_adapter(staged, base.read_modules(base_folder) if base_folder else None)
    quant_bits, variant = _variant(folder, origin, peft)
    identity = Identity(_name(folder, origin), variant, base_model, owner)
    name_the_base(staged / CONFIG, base_model)
    facts = {
        "adapter_id": id,
        "name": identity.name,
        "variant": variant,
        "base_model": base_model,
        "adapter": sound.facts(quant_bits),
        **(base.describe(base_folder) if base_folder else {}),
        **({"origin": origin} if origin else {}),
    }
    (staged / CARD).write_text(card(facts))
    write_manifest(staged, facts)
    unseen = f"{base_model} is not in the models folders: names and shapes were not compared"
    return _Prepared(staged=staged, identity=identity, notes=() if base_folder else (unseen,))


def _publish(database: Database, store: AdapterStore, id: str, prepared: _Prepared) -> Adapter:
    """The adapter's row: a new one, or that of the version which holds the same bytes."""
    files = describe(prepared.staged, (*PUBLISHED, CARD, MANIFEST))
    with database.reading() as session:
        same = registry.find_same(session, prepared.identity, files)
    if same is not None:
        return same
    store.publish(id, prepared.staged)
    for _ in range(TRIES - 1):
        with suppress(IntegrityError):  # another version has just taken the number
            return _list(database, prepared.identity, id, files)
    return _list(database, prepared.identity, id, files)


def _list(database: Database, identity: Identity, id: str, files: Sequence[File]) -> Adapter:
    with database.transaction() as session:
        # once more: another process may import the same
        same = registry.find_same(session, identity, files)
        if same is not None:
            return same
        return registry.add_imported(session, identity, id, files, now=now(session))


# ---- what lies where


def _find(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Folders that hold an adapter, or stand where one should."""
    if _is_adapter(folder) or (depth and _VARIANT.fullmatch(folder.parent.name)):
        yield folder
    elif depth < MAX_DEPTH and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield from _find(path, depth + 1)


def _is_adapter(folder: Path) -> bool:
    names = (CONFIG, WEIGHTS, *(f"adapter_model{suffix}" for suffix in PICKLES))
    return any((folder / name).exists() for name in names)


def _require_inside(root: Path, folder: Path) -> None:
    """Names in a tree may be links to versions in it, as this service's own are."""
    if not folder.resolve().is_relative_to(root.resolve()):
        raise InvalidAdapter("it is a symbolic link that leads out of the folder given")


def _origin(folder: Path) -> Mapping[str, Any] | None:
    """The manifest that a FinLoRA service has put there, with which the files must agree."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or not {"adapter_id", "files"} <= manifest.keys():
        return None
    problems = verify(folder)
    if problems:
        raise InvalidAdapter(f"it is not what its {MANIFEST} says: {problems[0]}")
    return {key: value for key, value in manifest.items() if key != "files"}


def _name(folder: Path, origin: Mapping[str, Any] | None) -> str:
    """Of its folder in a tree; of an adapter by itself, what its manifest says."""
    by_itself = not _VARIANT.fullmatch(folder.parent.name)
    name = origin.get("name") if origin and by_itself else folder.name
    try:
        return TypeAdapter(RunName).validate_python(name, strict=True)
    except ValidationError:
        raise InvalidAdapter(
            f"{str(name)[:60]!r} cannot name an adapter: letters, digits, '.', '_' and '-', "
            "neither '.' nor '-' first"
        ) from None


def _variant(
    folder: Path, origin: Mapping[str, Any] | None, peft: PeftConfig
) -> tuple[int | None, str]:
    """The bits of its base, which PEFT does not record, and the variant as it is spelt here."""
    said = _VARIANT.fullmatch(folder.parent.name)
    if said is None and origin is not None:
        said = _VARIANT.fullmatch(str(origin.get("variant")))
    if said is None:
        raise InvalidAdapter(
            "nothing says in how many bits its base was trained with; put it into a folder "
            f"named as FinLoRA does, such as {peft.variant(8)}"
        )
    methods = {"_dora": peft.use_dora, "_rslora": peft.use_rslora}
    if int(said[2]) != peft.rank:
        raise InvalidAdapter(f"the folder {said[0]} says rank {said[2]}, {CONFIG} {peft.rank}")
    for method, is_used in methods.items():
        if (method in said[3]) != is_used:
            fault = f"{CONFIG} has use{method} {str(is_used).lower()}"
            raise InvalidAdapter(f"the folder {said[0]} says otherwise, but {fault}")
    bits = None if said[1] == "fp16" else int(said[1].removesuffix("bits"))
    return bits, peft.variant(bits)


def _base_name(written: str | None, models: Sequence[Path]) -> str:
    """A name on the hub as it stands; of a folder on some machine, what its end names."""
    if written is None:
        raise InvalidAdapter(f"{CONFIG} does not name its base model")
    parts = written.rstrip("/").split("/")
    pair = "/".join(parts[-2:])
    candidates = [written, *([pair] if find_base_model(pair, models) else []), parts[-1]]
    for candidate in candidates:
        with suppress(ValidationError):
            return TypeAdapter(ModelName).validate_python(candidate, strict=True)
    raise InvalidAdapter(f"{CONFIG}: {written[:60]!r} does not name a base model")
