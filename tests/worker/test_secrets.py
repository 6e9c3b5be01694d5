"""A token is planted in every place that holds a secret; nothing that is stored or shown has it.

The trainer here is hostile: it prints its environment and its parent's into the log, puts
them into its metrics and into the files of its adapter. What it was not given, it cannot tell.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import select

from api.main import create_app
from api.queue import CeleryQueue
from finlora_core.db.models import Base
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.support import BASE_MODEL, CANARY, bearer, make_key, write_dataset
from tests.worker.conftest import GOOD, BenchWith
from tests.worker.hub import Hub
from worker.attempt import work_until_idle

HUB_TOKEN = f"hf_{CANARY}" + "t" * 24

TELL_ALL = """
seen = {"own": dict(os.environ), "guard": Path(f"/proc/{os.getppid()}/environ").read_text()}
print(json.dumps(seen), file=sys.stderr, flush=True)
metric(step=1, loss=0.5, **seen)
"""
INTO_THE_ADAPTER = """
(output / "tokenizer.json").write_text(json.dumps(seen))
(output / "README.md").write_text(json.dumps(seen))
"""
FAILING = TELL_ALL + "raise RuntimeError(str(seen))"
PUBLISHING = TELL_ALL + GOOD + INTO_THE_ADAPTER.replace("complete()", "")

WHERE_SECRETS_ARE_KEPT = (
    "FINLORA_DATABASE_PASSWORD", "FINLORA_BROKER_PASSWORD", "FINLORA_HF_TOKEN",
    "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "PGPASSWORD", "SOMEBODYS_SECRET",
)  # fmt: skip

REQUEST = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl"}
REJECTED: Mapping[str, Mapping[str, object]] = {
    "unknown key": {"hf_token": CANARY},
    "wrong type": {"lora_r": CANARY},
    "wrong name": {"base_model": f"{CANARY} token"},
    "wrong choice": {"optimizer": CANARY},
    "wrong list": {"lora_target_modules": [CANARY]},
    "bad row": {"dataset_path": "bad.jsonl"},
}


@pytest.fixture
def planted(
    settings: Settings, database: Database, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings full of secrets, which also lie in the environment of API and worker."""
    for name in WHERE_SECRETS_ARE_KEPT:
        monkeypatch.setenv(name, f"{CANARY}-{name}")
    url = database.engine.url.set(password=None)
    write_dataset(settings.datasets[0] / "train.jsonl")
    with (settings.datasets[0] / "train.jsonl").open("a") as rows:
        rows.write(json.dumps({"context": f"{CANARY} rose.", "target": "positive"}) + "\n")
    (settings.datasets[0] / "bad.jsonl").write_text(json.dumps({"context": CANARY}) + "\n")
    return settings.model_copy(
        update={
            "database_url": url.render_as_string(),
            "database_password": SecretStr(f"{CANARY}-database"),
            "broker_url": "redis://default@127.0.0.1:1/0",
            "broker_password": SecretStr(f"{CANARY}-broker"),
            "key_pepper": SecretStr(f"{CANARY}-{'p' * 16}"),
            "hf_endpoint": hub.url,
            "hf_token": SecretStr(HUB_TOKEN),
        }
    )


@pytest.fixture
def connected(planted: Settings) -> Iterator[Database]:
    """With the password, as a service would."""
    assert CANARY in (planted.database.password or "")
    database = Database.connect(planted.database)
    yield database
    database.close()


@pytest.fixture
def client(planted: Settings, connected: Database, bench_with: BenchWith) -> Iterator[TestClient]:
    queue = CeleryQueue(planted.broker)
    store = bench_with("").store
    app = create_app(settings=planted, database=connected, queue=queue, store=store)
    headers = bearer(make_key(connected, planted))
    with TestClient(app, raise_server_exceptions=False, headers=headers) as client:
        yield client
    queue.close()


@pytest.fixture
def shown(
    planted: Settings,
    connected: Database,
    client: TestClient,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Callable[[], Mapping[str, str]]:
    """Everything that the service has stored, logged and answered, by where it is."""
    caplog.set_level(logging.DEBUG)

    def look() -> Mapping[str, str]:
        out, err = capfd.readouterr()
        places = {"log": caplog.text, "stdout": out, "stderr": err}
        for file in planted.home.rglob("*"):
            if file.is_file():
                places[str(file)] = file.read_bytes().decode(errors="replace")
        with connected.reading() as session:
            for table in Base.metadata.sorted_tables:
                rows = session.execute(select(table)).all()
                places[f"table {table.name}"] = "\n".join(map(str, rows))
        return places | {path: client.get(path).text for path in paths(client)}

    return look


def paths(client: TestClient) -> Iterator[str]:
    for run in client.get("/runs").json()["data"]:
        for part in ("", "/attempts", "/logs", "/metrics", "/config.yaml"):
            yield f"/runs/{run['id']}{part}"
    for adapter in client.get("/adapters").json()["data"]:
        yield f"/adapters/{adapter['id']}/download"
        for file in adapter["files"]:
            yield f"/adapters/{adapter['id']}/files/{file['path']}"


@pytest.fixture
def trained(
    planted: Settings, connected: Database, client: TestClient, bench_with: BenchWith
) -> Callable[[str, Settings], str]:
    """The status of a run that was posted and trained by a worker with these settings."""

    def run(trainer: str, given: Settings) -> str:
        posted = client.post("/runs", json=REQUEST)
        assert posted.status_code == 201, posted.text
        work_until_idle(replace(bench_with(trainer), settings=given, database=connected))
        return str(client.get(posted.headers["Location"]).json()["status"])

    return run


ONE_KIND = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
"""SQLite has no password to leak."""


@ONE_KIND
def test_a_run_that_succeeds_shows_no_secret(
    planted: Settings,
    hub: Hub,
    client: TestClient,
    trained: Callable[[str, Settings], str],
    shown: Callable[[], Mapping[str, str]],
) -> None:
    assert trained(PUBLISHING, planted) == "succeeded"
    assert hub.tokens == {f"Bearer {HUB_TOKEN}"}
    places = shown()
    assert {"README.md", "axolotl.yaml"} <= {Path(place).name for place in places}
    assert_nothing_in(places, client)


@ONE_KIND
@pytest.mark.parametrize("userinfo", ["", f"user:{CANARY}@"])
def test_a_run_that_fails_shows_no_secret(
    planted: Settings,
    hub: Hub,
    client: TestClient,
    trained: Callable[[str, Settings], str],
    shown: Callable[[], Mapping[str, str]],
    userinfo: str,
) -> None:
    """In the trainer; or before, since the hub that it is sent to refuses it."""
    hub.refusal = (404, "RepoNotFound") if userinfo else None
    endpoint = hub.url.replace("//", f"//{userinfo}")
    given = planted.model_copy(update={"hf_endpoint": endpoint})
    assert trained(FAILING, given) == "failed"
    assert_nothing_in(shown(), client)


@ONE_KIND
@pytest.mark.parametrize("wrong", REJECTED.values(), ids=list(REJECTED))
def test_what_is_refused_is_not_echoed(
    client: TestClient, shown: Callable[[], Mapping[str, str]], wrong: Mapping[str, object]
) -> None:
    request = {**REQUEST, **wrong}
    answer = client.post("/runs", json=request, headers={"Cookie": f"session={CANARY}"})
    assert answer.status_code == 422
    nobodys = client.post("/runs", json=request, headers={"Authorization": f"Bearer {CANARY}"})
    assert nobodys.status_code == 401
    answers = {each.text: str(each.headers) for each in (answer, nobodys)}
    said = {"bodies": str([*answers]), "headers": str([*answers.values()])}
    assert_nothing_in({**shown(), **said}, client)


def assert_nothing_in(places: Mapping[str, str], client: TestClient) -> None:
    """Neither a canary nor the caller's own API key."""
    secret = client.headers["Authorization"].rpartition("_")[2]
    found = [place for place, text in places.items() if CANARY in text or secret in text]
    assert found == []
