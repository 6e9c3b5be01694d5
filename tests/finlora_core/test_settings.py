"""Settings: defaults under one folder, what is refused, and where secrets come from and go."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from finlora_core import settings
from finlora_core.errors import InvalidSettings
from finlora_core.settings import load_settings

PASSWORD = "p@ss:w/rd %41"


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No FINLORA_ variable of whoever runs the tests, no secrets, an empty home."""
    for name in [name for name in os.environ if name.upper().startswith("FINLORA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(settings, "SECRETS_DIR", tmp_path / "no-secrets")
    monkeypatch.setenv("HOME", str(tmp_path))


def refusal(**overrides: Any) -> str:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(**overrides)
    return str(caught.value)


# ---- where things lie


def test_by_default_everything_lies_in_one_folder(tmp_path: Path) -> None:
    found, home = load_settings(), tmp_path / ".finlora"
    assert found.home == home
    assert found.adapters == home / "lora_adaptors"
    assert found.runs == home / "runs"
    assert found.datasets == (home / "datasets",)
    assert found.models == (home / "models",)
    assert found.database == make_url(f"sqlite:///{home}/finlora.db")
    assert found.broker == f"redis+socket://{home}/redis/redis.sock"


def test_by_default_only_this_machine_can_reach_the_api() -> None:
    assert load_settings().host == "127.0.0.1"


def test_one_setting_moves_all_of_it(tmp_path: Path) -> None:
    found = load_settings(home=tmp_path / "else")
    lying = (found.adapters, found.runs, *found.datasets, *found.models, found.redis_socket)
    assert all(path.is_relative_to(tmp_path / "else") for path in lying)
    assert found.database.database == f"{tmp_path}/else/finlora.db"


def test_lists_are_split_at_colons_and_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINLORA_DATASET_ROOTS", "/data/one:~/two::")
    monkeypatch.setenv("FINLORA_MODELS_DIRS", "three")
    monkeypatch.chdir(tmp_path)
    found = load_settings()
    assert found.datasets == (Path("/data/one"), tmp_path / "two")
    assert found.models == (tmp_path / "three",)


@pytest.mark.parametrize("value", ["", ":"])
def test_an_empty_list_is_the_default(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINLORA_DATASET_ROOTS", value)
    assert load_settings().datasets == (load_settings().home / "datasets",)


def test_a_home_may_start_with_a_tilde(tmp_path: Path) -> None:
    assert load_settings(home="~/x", adapters_dir="~/y").home == tmp_path / "x"
    assert load_settings(home="~/x", adapters_dir="~/y").adapters == tmp_path / "y"


# ---- what wins


def test_a_variable_is_read_and_an_override_beats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINLORA_PORT", "8123")
    assert load_settings().port == 8123
    assert load_settings(port=9000).port == 9000


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().port = 1


# ---- what is refused


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FINLORA_PORT", "eight thousand"),
        ("FINLORA_PORT", "0"),
        ("FINLORA_PORT", "65536"),
        ("FINLORA_DEVICE", "tpu"),
        ("FINLORA_LEASE_SECONDS", "-1"),
        ("FINLORA_LEASE_SECONDS", "nan"),
        ("FINLORA_HEARTBEAT_SECONDS", "0"),
        ("FINLORA_MAX_CRASHES", "0"),
        ("FINLORA_MIN_FREE_DISK_MIB", "-1"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert refusal().startswith(f"{variable}: ")


def test_every_bad_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINLORA_PORT", "x")
    monkeypatch.setenv("FINLORA_DEVICE", "x")
    assert {part.split(":")[0] for part in refusal().split("; ")} == {
        "FINLORA_PORT",
        "FINLORA_DEVICE",
    }


def test_an_unknown_override_is_refused() -> None:
    assert refusal(prot=8000).startswith("FINLORA_PROT: ")


@pytest.mark.parametrize(("fence", "grace"), [(90, 25), (100, 15), (119, 2), (200, 1)])
def test_timings_under_which_two_workers_could_train_one_run_are_refused(
    fence: float, grace: float
) -> None:
    said = refusal(lease_seconds=120, fence_seconds=fence, stop_grace_seconds=grace)
    assert said.startswith("fence_seconds")
    total = (
        f"{fence} + stop_grace_seconds {grace} + 5 to kill what ignores it = {fence + grace + 5}"
    )
    assert f"fence_seconds {total} must stay below lease_seconds 120" in said


def test_timings_that_just_fit_are_taken() -> None:
    found = load_settings(lease_seconds=12, fence_seconds=4, stop_grace_seconds=2.9)
    assert found.lease_seconds == 12


# ---- secrets


def test_the_databases_password_is_put_into_its_url() -> None:
    url = "postgresql+psycopg://finlora@db:5432/finlora"
    found = load_settings(database_url=url, database_password=PASSWORD + "\n")
    assert found.database == make_url(url).set(password=PASSWORD)
    round_trip = make_url(found.database.render_as_string(hide_password=False))
    assert round_trip.password == PASSWORD


def test_the_brokers_password_is_put_into_its_url() -> None:
    found = load_settings(broker_url="redis://finlora@redis:6379/0", broker_password=PASSWORD)
    assert make_url(found.broker).password == PASSWORD
    assert make_url(found.broker).host == "redis"


def test_urls_without_passwords_stay_as_they_are() -> None:
    found = load_settings(broker_url="redis://redis:6379/0", database_url="sqlite:////x/y.db")
    assert found.broker == "redis://redis:6379/0"
    assert found.database.render_as_string() == "sqlite:////x/y.db"


def test_no_secret_is_shown_with_the_settings() -> None:
    secrets = {"database_password": "dbpw", "broker_password": "brpw", "hf_token": "hfpw"}
    found = load_settings(
        database_url="postgresql://u@h/d", broker_url="redis://u@h:1/0", **secrets
    )
    assert "dbpw" in found.database.render_as_string(hide_password=False)
    assert "brpw" in found.broker
    shown = f"{found!r} {found} {found.model_dump()} {found.database!r} {found.database}"
    assert not any(secret in shown for secret in secrets.values())


def test_a_secret_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "finlora_database_password").write_text("from a file\n")
    (tmp_path / "secrets" / "somebody_elses").write_text("not ours")
    monkeypatch.setattr(settings, "SECRETS_DIR", tmp_path / "secrets")
    found = load_settings(database_url="postgresql://u@h/d")
    assert found.database.password == "from a file"  # without its line break


def test_a_variable_beats_a_secrets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "finlora_hf_token").write_text("file")
    monkeypatch.setattr(settings, "SECRETS_DIR", tmp_path)
    monkeypatch.setenv("FINLORA_HF_TOKEN", "variable")
    token = load_settings().hf_token
    assert token is not None
    assert token.get_secret_value() == "variable"


def test_a_child_process_gets_the_same_settings_wherever_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = load_settings(
        home="home",
        adapters_dir="adapters",
        dataset_roots="one:~/two",
        models_dirs="three",
        database_url="postgresql://u@h/d",
        database_password=PASSWORD,
        hf_token="token",
        lease_seconds=200.5,
    )
    names = ("home", "adapters", "datasets", "models", "database", "broker", "hf_token",
             "lease_seconds", "port")  # fmt: skip
    expected = {name: getattr(found, name) for name in names}
    variables = found.environment()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    child = load_settings()
    assert {name: getattr(child, name) for name in names} == expected


def test_every_setting_says_what_it_is_for() -> None:
    fields = settings.Settings.model_fields.items()
    assert [name for name, field in fields if not field.description] == []
