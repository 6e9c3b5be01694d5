"""`finlora …` as a person types it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import inspect, make_url

from finlora_core.db.models import Base
from finlora_core.db.session import Database

COMMANDS = [
    "up", "migrate", "finetune", "submit", "render",
    "status", "logs", "cancel", "pause", "resume", "retry",
    "adapters list", "adapters show", "adapters pull", "adapters verify", "adapters import",
]  # fmt: skip


def finlora(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "finlora_core.cli", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_command() -> None:
    shown = finlora("--help").stdout
    for command in COMMANDS:
        assert f" {command.split()[0]} " in shown
    assert "FINLORA_" in shown


def test_the_help_of_every_command_has_an_example() -> None:
    """All of them in one process: starting one takes longer than all of them together."""
    script = "\n".join(
        [
            "import contextlib, finlora_core.cli as cli",
            f"for command in {COMMANDS!r}:",
            "    with contextlib.suppress(SystemExit):",
            "        cli.app([*command.split(), '--help'], prog_name='finlora')",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    pages = done.stdout.split("Usage: ")[1:]
    assert len(pages) == len(COMMANDS)
    for command, page in zip(COMMANDS, pages, strict=True):
        usage, *rest = page.splitlines()
        assert usage.strip().startswith(f"finlora {command}")
        assert any(f"finlora {command}" in line for line in rest), command


def test_migrate_makes_the_tables_and_can_be_repeated(tmp_path: Path) -> None:
    for _ in range(2):
        done = finlora("migrate", FINLORA_HOME=str(tmp_path))
        assert (done.returncode, done.stdout) == (0, "The database is up to date.\n")
    database = Database.connect(make_url(f"sqlite:///{tmp_path / 'finlora.db'}"))
    assert set(Base.metadata.tables) <= set(inspect(database.engine).get_table_names())
    database.close()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("FINLORA_LEASE_SECONDS", "5"), ("FINLORA_PORT", "x"), ("FINLORA_DATABASE_URL", "nonsense")],
)
def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, variable: str, value: str) -> None:
    done = finlora("up", FINLORA_HOME=str(tmp_path), **{variable: value})
    assert done.returncode == 1
    assert "invalid_settings" in done.stderr
    assert variable.removeprefix("FINLORA_").lower() in done.stderr.lower()
    assert "Traceback" not in done.stdout + done.stderr


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = finlora("up", "--home", str(tmp_path / "file" / "home"))
    assert done.returncode == 1
    assert "cannot make" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_database_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    done = finlora(
        "migrate",
        FINLORA_HOME=str(tmp_path),
        FINLORA_DATABASE_URL="postgresql://me@127.0.0.1:9/finlora",
        FINLORA_DATABASE_PASSWORD="hunter2",
    )
    assert done.returncode == 1
    assert "unavailable" in done.stderr
    assert "127.0.0.1" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
