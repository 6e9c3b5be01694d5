"""Adapters made elsewhere: imported whole, once, or refused with the reason. On both databases."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from finlora_core.adapters import imports, registry
from finlora_core.adapters.imports import Outcome, Result, import_tree
from finlora_core.adapters.manifest import CARD, CONFIG, MANIFEST, WEIGHTS, sha256_of
from finlora_core.adapters.store import AdapterStore
from finlora_core.adapters.verify import verify
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database
from finlora_core.errors import AmbiguousAdapter, NotFound
from finlora_core.settings import Settings
from tests.bad_adapters import BASE, CORPUS, MODULES, good, write, write_base, write_corpus


@pytest.fixture
def store(settings: Settings) -> AdapterStore:
    return AdapterStore(settings.adapters)


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    write_base(tmp_path / "models")
    return [tmp_path / "models"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "lora_adapters"


def adapters(database: Database) -> Sequence[Adapter]:
    with database.reading() as session:
        return session.scalars(select(Adapter).order_by(Adapter.created_at)).all()


def outcomes(results: Sequence[Result]) -> dict[str, Outcome]:
    return {result.folder: result.outcome for result in results}


def what_is_left(settings: Settings) -> list[str]:
    """All that an import may leave in the store, links and their folders left aside."""
    return sorted(
        path.name
        for place in (".store", ".staging")
        if (settings.adapters / place).is_dir()
        for path in (settings.adapters / place).iterdir()
    )


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_an_adapter_made_elsewhere_is_checked_published_linked_and_listed(
    database: Database, store: AdapterStore, settings: Settings, models: list[Path], tree: Path
) -> None:
    source = write(tree / "8bits_r4" / "sentiment", good())
    [result] = import_tree(database, store, tree, models=models)
    [row] = adapters(database)
    assert (result.outcome, result.adapter_id, result.notes) == (Outcome.IMPORTED, row.id, ())
    assert (result.folder, result.variant, result.name, result.version) == (
        "8bits_r4/sentiment", "8bits_r4", "sentiment", 1,
    )  # fmt: skip
    assert (row.run_id, row.base_model, row.damage) == (None, BASE, None)
    stable = settings.adapters / "8bits_r4" / "sentiment"
    assert stable.resolve() == store.folder(row.id)
    assert (stable / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
    assert {path.name for path in stable.iterdir()} == {file["path"] for file in row.files}
    assert verify(stable, row.manifest_sha256) == []
    assert what_is_left(settings) == [row.id]


def test_its_manifest_and_card_say_what_is_known_of_it(
    database: Database, store: AdapterStore, settings: Settings, models: list[Path], tree: Path
) -> None:
    write(tree / "4bits_r4" / "sentiment", good())
    (models[0] / BASE / CARD).write_text("---\nlicense: llama3.1\n---\n# Tiny\n")
    import_tree(database, store, tree, models=models)
    stable = settings.adapters / "4bits_r4" / "sentiment"
    manifest = read(stable / MANIFEST)
    assert manifest["adapter"] == {
        "rank": 4, "alpha": 16, "quant_bits": 4, "use_dora": False, "use_rslora": False,
        "target_modules": ["q_proj", "v_proj"], "modules": len(MODULES), "changed": len(MODULES),
        "base_compared": True,
    }  # fmt: skip
    assert manifest["base_revision"].startswith("sha256:")
    card = (stable / CARD).read_text()
    assert "made elsewhere" in card
    assert "| licence of the base, by its own files | `llama3.1` |" in card
    assert not {"None", "nan", "{", "}"} & set(card.replace("`", " ").split())


def test_only_files_of_an_adapter_are_taken(
    database: Database, store: AdapterStore, settings: Settings, tree: Path
) -> None:
    source = write(tree / "8bits_r4" / "sentiment", good())
    for name in ("optimizer.pt", "training_args.bin", "README.md", "run.py"):
        (source / name).write_text("of whoever made it")
    (source / "checkpoint-20").mkdir()
    import_tree(database, store, tree)
    names = {path.name for path in (settings.adapters / "8bits_r4" / "sentiment").iterdir()}
    assert names == {CONFIG, WEIGHTS, "tokenizer.json", CARD, MANIFEST}


@pytest.mark.parametrize("spelling", ["lora_adapters", "lora_adaptors"])
def test_a_finlora_checkout_is_a_tree_in_either_spelling(
    database: Database, store: AdapterStore, tmp_path: Path, spelling: str
) -> None:
    checkout = tmp_path / "FinLoRA"
    (checkout / "data" / "train").mkdir(parents=True)
    write(checkout / spelling / "8bits_r4" / "sentiment", good(1))
    write(checkout / spelling / "fp16_r4" / "sentiment", good(2))
    results = import_tree(database, store, checkout)
    assert {(it.variant, it.name) for it in results} == {
        ("8bits_r4", "sentiment"),
        ("fp16_r4", "sentiment"),
    }
    assert outcomes(results) == {
        f"{spelling}/8bits_r4/sentiment": Outcome.IMPORTED,
        f"{spelling}/fp16_r4/sentiment": Outcome.IMPORTED,
    }


def test_importing_the_same_bytes_again_makes_no_second_version(
    database: Database, store: AdapterStore, settings: Settings, tree: Path
) -> None:
    source = write(tree / "8bits_r4" / "sentiment", good())
    [first] = import_tree(database, store, tree)
    [again] = import_tree(database, store, source)
    assert again.outcome is Outcome.ALREADY_THERE
    assert (again.adapter_id, again.version) == (first.adapter_id, 1)
    assert [row.id for row in adapters(database)] == what_is_left(settings) == [first.adapter_id]


def test_other_bytes_of_the_same_name_are_the_next_version(
    database: Database, store: AdapterStore, settings: Settings, tree: Path
) -> None:
    folder = tree / "8bits_r4" / "sentiment"
    versions = []
    for change in ({}, {"lora_alpha": 32}):  # the same tensors, another scale: another adapter
        parts = good()
        parts.config |= change
        shutil.rmtree(folder, ignore_errors=True)
        [result] = import_tree(database, store, write(folder, parts))
        versions.append(result.version)
    assert versions == [1, 2]
    assert read(settings.adapters / "8bits_r4" / "sentiment" / CONFIG)["lora_alpha"] == 32


def test_the_corpus_of_bad_adapters_is_refused_each_with_its_reason(
    database: Database, store: AdapterStore, settings: Settings, models: list[Path], tree: Path
) -> None:
    folders = {folder: what for what, folder in write_corpus(tree)}
    write(tree / "8bits_r4" / "zz_sound", good())
    told: list[Result] = []
    results = import_tree(database, store, tree, models=models, report=told.append)
    got = {folders.get(tree / it.folder): (it.outcome, it.reason) for it in results}
    assert told == results
    assert len(results) == len(CORPUS) + 1
    for what, (_, reason) in CORPUS.items():
        outcome, said = got[what]
        assert outcome is Outcome.REFUSED, what
        assert reason in said, what
    assert got[None] == (Outcome.IMPORTED, "")
    assert [row.name for row in adapters(database)] == ["zz_sound"]
    assert what_is_left(settings) == [adapters(database)[0].id]
    assert [path.name for path in (settings.adapters / "8bits_r4").iterdir()] == ["zz_sound"]


CONTRADICTIONS = [
    ("8bits_r8", {}, "the folder 8bits_r8 says rank 8, adapter_config.json 4"),
    ("8bits_r4_rslora", {}, "has use_rslora false"),
    ("8bits_r4", {"use_rslora": True}, "has use_rslora true"),
    ("8bits_r4_dora", {}, "has use_dora false"),
    ("my_adapters", {}, "nothing says in how many bits"),
    ("16bits_r4", {}, "nothing says in how many bits"),
]


@pytest.mark.parametrize(("folder", "config", "reason"), CONTRADICTIONS)
def test_a_folder_that_contradicts_its_adapter_is_refused(
    database: Database,
    store: AdapterStore,
    tree: Path,
    folder: str,
    config: dict[str, Any],
    reason: str,
) -> None:
    parts = good()
    parts.config |= config
    write(tree / folder / "sentiment", parts)
    [result] = import_tree(database, store, tree)
    assert result.outcome is Outcome.REFUSED
    assert reason in result.reason
    assert adapters(database) == []


def test_what_follows_the_variant_in_a_folders_name_is_a_remark(
    database: Database, store: AdapterStore, tree: Path
) -> None:
    parts = good()
    parts.config |= {"use_rslora": True, "lora_alpha": 32}
    write(tree / "8bits_r4_rslora_a32" / "sentiment", parts)
    assert [it.variant for it in import_tree(database, store, tree)] == ["8bits_r4_rslora"]


NAMES = [
    ("org/other", "org/other"),
    ("/workspace/models/org/tiny", "org/tiny"),
    ("/workspace/models/Llama-3.1-8B/", "Llama-3.1-8B"),
]


@pytest.mark.parametrize(("written", "shown"), NAMES)
def test_a_base_that_was_a_folder_somewhere_gets_its_name_back(
    database: Database, store: AdapterStore, models: list[Path], tree: Path,
    written: str, shown: str,
) -> None:  # fmt: skip
    parts = good()
    parts.config["base_model_name_or_path"] = written
    folder = write(tree / "8bits_r4" / "sentiment", parts)
    [result] = import_tree(database, store, folder, models=models)
    [row] = adapters(database)
    published = read(store.folder(row.id) / CONFIG)
    assert row.base_model == published["base_model_name_or_path"] == shown
    assert bool(result.notes) == (shown != BASE)


@pytest.mark.parametrize("name", ["ünicode", "with space", "-x", "n" * 129])
def test_a_name_that_cannot_be_one_is_refused(
    database: Database, store: AdapterStore, tree: Path, name: str
) -> None:
    write(tree / "8bits_r4" / name, good())
    [result] = import_tree(database, store, tree)
    assert result.outcome is Outcome.REFUSED
    assert "cannot name an adapter" in result.reason


def test_a_folder_without_adapters_says_so(
    database: Database, store: AdapterStore, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(NotFound, match="there is no adapter"):
            import_tree(database, store, folder)


def test_another_services_whole_store_can_be_imported(
    database: Database, store: AdapterStore, settings: Settings, tree: Path, tmp_path: Path
) -> None:
    """Its names are links into the same tree; its manifests say where each comes from."""
    write(tree / "8bits_r4" / "sentiment", good())
    import_tree(database, store, tree)
    [theirs] = adapters(database)
    moved = tmp_path / "from_the_other_host"
    settings.adapters.rename(moved)
    with database.transaction() as session:
        session.delete(session.get_one(Adapter, theirs.id))
    [result] = import_tree(database, store, moved)
    assert (result.folder, result.outcome) == ("8bits_r4/sentiment", Outcome.IMPORTED)
    manifest = read(settings.adapters / "8bits_r4" / "sentiment" / MANIFEST)
    assert manifest["origin"]["adapter_id"] == theirs.id


def test_a_downloaded_adapter_is_known_by_its_manifest(
    database: Database, store: AdapterStore, settings: Settings, tree: Path, tmp_path: Path
) -> None:
    write(tree / "8bits_r4" / "sentiment", good())
    [first] = import_tree(database, store, tree)
    downloaded = tmp_path / "sentiment-v1"
    shutil.copytree(settings.adapters / "8bits_r4" / "sentiment", downloaded)
    [again] = import_tree(database, store, downloaded)
    assert (again.outcome, again.adapter_id) == (Outcome.ALREADY_THERE, first.adapter_id)
    with (downloaded / "tokenizer.json").open("a") as file:
        file.write(" ")
    [spoilt] = import_tree(database, store, downloaded)
    assert spoilt.outcome is Outcome.REFUSED
    assert "tokenizer.json: has 3 bytes instead of 2" in spoilt.reason


def test_a_link_that_leads_out_of_the_tree_is_refused(
    database: Database, store: AdapterStore, tree: Path, tmp_path: Path
) -> None:
    outside = write(tmp_path / "secret" / "8bits_r4" / "sentiment", good())
    (tree / "8bits_r4").mkdir(parents=True)
    (tree / "8bits_r4" / "sentiment").symlink_to(outside, target_is_directory=True)
    [result] = import_tree(database, store, tree)
    assert result.outcome is Outcome.REFUSED
    assert "leads out of the folder" in result.reason


def test_a_folder_in_the_place_of_the_stable_path_costs_only_the_link(
    database: Database, store: AdapterStore, settings: Settings
) -> None:
    """Somebody has put a FinLoRA tree right into the adapters folder."""
    own = write(settings.adapters / "8bits_r4" / "sentiment", good())
    [result] = import_tree(database, store, settings.adapters)
    assert result.outcome is Outcome.IMPORTED
    assert any("was not linked" in note for note in result.notes)
    assert not own.is_symlink()
    assert what_is_left(settings) == [result.adapter_id]


def test_two_imports_at_once_make_one_version(
    database: Database, store: AdapterStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins between the first one's look at the table and its row."""
    source = write(tree / "8bits_r4" / "sentiment", good())
    publish = AdapterStore.publish

    def overtaken(store: AdapterStore, id: str, staged: Path) -> Path:
        monkeypatch.undo()
        import_tree(database, store, source)
        return publish(store, id, staged)

    monkeypatch.setattr(AdapterStore, "publish", overtaken)
    [result] = import_tree(database, store, source)
    assert result.outcome is Outcome.ALREADY_THERE
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Adapter)) == 1


# ---- finding a version


def three(database: Database, store: AdapterStore, tree: Path) -> None:
    """Two versions in one variant, one in another."""
    for variant, seed in (("8bits_r4", 1), ("8bits_r4", 2), ("fp16_r4", 3)):
        folder = tree / variant / "sentiment"
        shutil.rmtree(folder, ignore_errors=True)
        import_tree(database, store, write(folder, good(seed)))
    folder = write(tree / "fp16_r4" / "ner", good(4))
    import_tree(database, store, folder)


def test_a_version_is_found_by_name_and_the_newest_by_default(
    database: Database, store: AdapterStore, tree: Path
) -> None:
    three(database, store, tree)
    with database.reading() as session:
        newest = registry.find_version(session, "local", "sentiment", "8bits_r4")
        first = registry.find_version(session, "local", "sentiment", "8bits_r4", 1)
        only = registry.find_version(session, "local", "ner")
    assert [(it.variant, it.version) for it in (newest, first, only)] == [
        ("8bits_r4", 2), ("8bits_r4", 1), ("fp16_r4", 1),
    ]  # fmt: skip


def test_a_name_of_several_variants_is_ambiguous_and_they_are_named(
    database: Database, store: AdapterStore, tree: Path
) -> None:
    three(database, store, tree)
    with (
        database.reading() as session,
        pytest.raises(AmbiguousAdapter, match="'sentiment' exist as 8bits_r4, fp16_r4"),
    ):
        registry.find_version(session, "local", "sentiment")


@pytest.mark.parametrize("asked", [("nobody",), ("ner", "8bits_r4"), ("ner", "fp16_r4", 2)])
def test_a_version_that_is_not_there_is_named(
    database: Database, store: AdapterStore, tree: Path, asked: tuple[Any, ...]
) -> None:
    three(database, store, tree)
    with database.reading() as session, pytest.raises(NotFound, match=f"'{asked[0]}"):
        registry.find_version(session, "local", *asked)


def test_the_hash_of_the_manifest_stands_in_the_row(
    database: Database, store: AdapterStore, tree: Path
) -> None:
    write(tree / "8bits_r4" / "sentiment", good())
    import_tree(database, store, tree)
    [row] = adapters(database)
    assert row.manifest_sha256 == sha256_of(store.folder(row.id) / MANIFEST)


def test_notes_of_another_database_are_not_ours(database: Database, sqlite: Database) -> None:
    if database is not sqlite:
        assert imports.owner_of(database) != imports.owner_of(sqlite)
    assert imports.owner_of(database) == imports.owner_of(database)
