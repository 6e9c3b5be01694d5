"""Chat and raw completions: the unmodified `openai` package, our server, a real playground."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from api.openai.names import model_of
from api.openai.served import find_adapter
from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database
from finlora_core.playground import MAX_PROMPT, MAX_TOKENS
from finlora_core.runs.config import PromptFormat
from finlora_core.settings import Settings
from tests.api.openai.conftest import RELEASES, error_of, python_with
from tests.server import serving
from tests.service import publish
from tests.support import BASE_MODEL, CANARY, ListQueue, eventually, make_config, make_key

CHAT = "chat/completions"
ASK = Path(__file__).parent / "ask.py"


@pytest.fixture(scope="module")
def socket() -> Iterator[Path]:
    """Of a playground that lets nobody wait long, started by somebody with secrets."""
    with tempfile.TemporaryDirectory() as home:
        socket = Path(home) / "playground" / "sock"
        env = {
            **os.environ,
            "FINLORA_HOME": home,
            "FINLORA_DEVICE": "cpu",
            "FINLORA_PLAYGROUND_WAIT_SECONDS": "0.3",
            "FINLORA_HF_TOKEN": CANARY,
            "FINLORA_KEY_PEPPER": CANARY,
            "AWS_SECRET_ACCESS_KEY": CANARY,
        }
        with subprocess.Popen([sys.executable, "-m", "worker.playground"], env=env) as process:
            assert eventually(socket.exists)
            variables = Path(f"/proc/{process.pid}/environ").read_bytes()
            assert b"FINLORA_HOME" in variables
            assert CANARY.encode() not in variables
            yield socket
            process.terminate()


@pytest.fixture
def served(settings: Settings, tiny_base: Path, socket: Path) -> Settings:
    return settings.model_copy(update={"models_dirs": (tiny_base,), "playground_socket": socket})


def tuned(served: Settings, database: Database, output: Path, **keys: Any) -> str:
    """The name of a published adapter whose run had these keys."""
    store = AdapterStore(served.adapters)
    return model_of(publish(database, store, output, make_config(**keys)))


@pytest.mark.parametrize("release", RELEASES)
def test_the_openai_package_asks_base_models_and_adapters(
    served: Settings, sqlite: Database, tiny_adapter: Path, release: str | None
) -> None:
    full = {"quant_bits": None}
    instruction = tuned(served, sqlite, tiny_adapter, **full)
    chat = tuned(served, sqlite, tiny_adapter, **full, prompt_format=PromptFormat.CHAT)
    keys = (make_key(sqlite, served), make_key(sqlite, served, owner="stranger"))
    store = AdapterStore(served.adapters)
    app = create_app(settings=served, database=sqlite, queue=ListQueue(), store=store)
    models = [BASE_MODEL, instruction, chat, *(["all"] if release is None else [])]
    with serving(app) as url:
        done = subprocess.run(
            [str(python_with(release)), str(ASK), url, *keys, *models],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (release or "openai 3.") in done.stdout


# Without a playground


def ask(client: TestClient, path: str = CHAT, **keys: Any) -> httpx.Response:
    body = {"model": BASE_MODEL, "messages": [{"role": "user", "content": "Hi."}], **keys}
    if path == "completions" and "prompt" not in keys:
        body |= {"prompt": body.pop("messages")[0]["content"]}
    return client.post(f"/v1/{path}", json=body)


@pytest.fixture
def base(settings: Settings) -> str:
    folder = settings.models[0] / BASE_MODEL
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return BASE_MODEL


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_without_a_playground_it_is_said_how_to_get_one(
    client: TestClient, base: str, path: str
) -> None:
    answer = ask(client, path)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    error = error_of(answer)
    assert error["code"] == "playground_unavailable"
    assert "python -m worker.playground" in error["message"]


def test_an_adapter_without_its_base_at_hand_says_which_is_missing(
    client: TestClient, sqlite: Database, settings: Settings, tmp_path: Path
) -> None:
    answer = ask(client, model=tuned(settings, sqlite, tmp_path / "output"))
    assert (answer.status_code, error_of(answer)["code"]) == (503, "playground_unavailable")
    assert BASE_MODEL in error_of(answer)["message"]


def test_an_adapter_made_elsewhere_takes_whole_prompts_only(
    client: TestClient, base: str, sqlite: Database, settings: Settings, tmp_path: Path
) -> None:
    name = tuned(settings, sqlite, tmp_path / "output")
    with sqlite.transaction() as session:
        adapter = find_adapter(session, DEFAULT_OWNER, name)
        adapter.run_id = None
    error = error_of(ask(client, model=name))
    assert (error["param"], error["code"]) == ("messages", "invalid_request")
    assert "/v1/completions" in error["message"]
    assert ask(client, "completions", model=name).status_code == 503


def test_a_damaged_adapter_is_not_asked(
    client: TestClient, base: str, sqlite: Database, settings: Settings, tmp_path: Path
) -> None:
    name = tuned(settings, sqlite, tmp_path / "output")
    with sqlite.transaction() as session:
        find_adapter(session, DEFAULT_OWNER, name).damage = "a bit has flipped"
    answer = ask(client, model=name)
    assert (answer.status_code, error_of(answer)["code"]) == (410, "corrupt")


WRONG: dict[str, Any] = {
    "max_tokens": [0, -1, MAX_TOKENS + 1, 1.5, "5", True],
    "max_completion_tokens": [0],
    "temperature": [-0.1, 2.1, "hot"],
    "top_p": [0, 1.1],
    "n": [0, 2],
    "stop": ["", [""], ["a"] * 5, 7],
    "seed": [2**63, 0.5],
    "stream": ["perhaps"],
    "stream_options": [{"include_obfuscation": False}],
    "messages": [[], [{"role": "user"}], [{"role": "tool", "content": "x"}], "Hi."],
    "model": ["", 7],
    "logprobs": [True],
    "presence_penalty": [0.5],
    "tools": [[]],
    "response_format": [{"type": "json_object"}],
    "audio": [None],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG.items() for value in values]
)
def test_what_cannot_be_done_is_refused_by_its_name(
    client: TestClient, base: str, key: str, value: object
) -> None:
    answer = ask(client, CHAT, **{key: value})
    assert answer.status_code == 400
    assert str(error_of(answer)["param"]).startswith(key)


@pytest.mark.parametrize(
    "content",
    ["a" * (MAX_PROMPT + 1), [{"type": "text", "text": "a" * (MAX_PROMPT // 2 + 1)}] * 2,
     [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}], []],
    ids=["long", "long in parts", "an image", "nothing"],
)  # fmt: skip
def test_a_message_is_text_of_bounded_size(client: TestClient, base: str, content: object) -> None:
    answer = ask(client, messages=[{"role": "user", "content": content}])
    assert answer.status_code == 400
    assert str(error_of(answer)["param"]).startswith("messages")


def test_what_says_nothing_about_the_answer_is_accepted(client: TestClient, base: str) -> None:
    answer = ask(client, user="ann", metadata={"a": "b"}, store=False, n=1, stop=None, seed=None)
    assert answer.status_code == 503
