"""Who is measured: the service, MLflow's tracking server, the floor, and nginx.

Each answers from one process, on a port of its own. All keep their rows in databases of the
same kind, which wait for the disk at each commit.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import URL, create_engine

from benchmarks.side_by_side import seed
from benchmarks.side_by_side.homes import CONFIG
from finlora_core.settings import Settings
from finlora_core.stack import Stack, free_port
from tests.chaos.parts import REPOSITORY, Part
from tests.support import eventually

MLFLOW = "3.17.2"
MLFLOW_VENV = REPOSITORY / "build" / f"mlflow-{MLFLOW}"
START_SECONDS = 90
STOP_SECONDS = 10
START_TIME = 1_764_000_000_000  # milliseconds: November 2025
UVICORN_QUIET = "--no-access-log --log-level warning"

NGINX = """\
{user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  default_type application/octet-stream;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@contextmanager
def service(settings: Settings) -> Iterator[None]:
    """Redis and the API as `finlora up` starts them, without a worker."""
    stack = Stack(settings)
    try:
        stack.start_api()
        _wait_for(settings.port, "/healthz", stack.log("api"))
        yield
    finally:
        stack.stop()


@contextmanager
def floor(folder: Path, url: URL, rows: int) -> Iterator[int]:
    """The bare routes on so many rows."""
    port = free_port()
    command = [
        sys.executable, "-m", "uvicorn", "benchmarks.side_by_side.floor:app",
        "--host", "127.0.0.1", "--port", str(port), *UVICORN_QUIET.split(),
    ]  # fmt: skip
    env = {"FLOOR_DATABASE_URL": url.render_as_string(hide_password=False)}
    with _running("floor", command, env, folder):
        _wait_for(port, "/openapi.json", folder / "logs" / "floor.log")
        _post(port, "/rows", CONFIG)
        _fill(url, rows, "rows", "id")
        yield port


def install_mlflow(say: Callable[[str], None]) -> None:
    """Into a virtual environment of its own, once."""
    if (MLFLOW_VENV / "bin" / "mlflow").exists():
        return
    say(f"installing mlflow {MLFLOW} into {MLFLOW_VENV.relative_to(REPOSITORY)} (about 600 MB)")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--clear", MLFLOW_VENV], check=True)
    wanted = [f"mlflow=={MLFLOW}", "psycopg[binary]"]
    python = MLFLOW_VENV / "bin" / "python"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *wanted], check=True)


@contextmanager
def mlflow(folder: Path, url: URL, runs: int) -> Iterator[int]:
    """A tracking server with so many runs, each with a config as its parameters."""
    if url.get_backend_name() == "sqlite":
        _use_write_ahead_log(url)
    port = free_port()
    command = [
        str(MLFLOW_VENV / "bin" / "mlflow"), "server", "--workers", "1", "--port", str(port),
        "--backend-store-uri", url.render_as_string(hide_password=False),
        "--default-artifact-root", str(folder / "mlflow-artifacts"),
        "--uvicorn-opts", UVICORN_QUIET,
    ]  # fmt: skip
    env = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    path = f"{MLFLOW_VENV / 'bin'}:{os.environ['PATH']}"
    with _running("mlflow", command, {**env, "PATH": path}, folder):
        _wait_for(port, "/health", folder / "logs" / "mlflow.log")
        _log_run(port)
        _fill(url, runs, "runs", "run_uuid", start_time=f"{START_TIME} - 1000 * n")
        for table in ("tags", "params"):
            _fill(url, runs, table, "run_uuid")
        yield port


@contextmanager
def nginx(folder: Path, root: Path) -> Iterator[int | None]:
    """Serves the files below `root`; None where it is not installed."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    # started by root, it would read files as a user who may not enter the folder
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(user=user, folder=folder, port=port, root=root))
    with _running("nginx", [program, "-c", str(config), "-p", str(folder)], {}, folder):
        _wait_for(port, "/", folder / "logs" / "nginx.log")
        yield port


def _log_run(port: int) -> None:
    """With the config as its parameters, as MLflow's clients log one."""
    body = {"experiment_id": "0", "run_name": "sentiment", "start_time": START_TIME}
    id = _post(port, "/api/2.0/mlflow/runs/create", body)["run"]["info"]["run_id"]
    params = [{"key": key, "value": str(value)} for key, value in CONFIG.items()]
    _post(port, "/api/2.0/mlflow/runs/log-batch", {"run_id": id, "params": params})


def _post(port: int, path: str, body: Mapping[str, Any]) -> Any:
    answer = httpx.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()


def _fill(url: URL, rows: int, table: str, id: str, **differing: str) -> None:
    """Up to so many rows like the only one that is there."""
    engine = create_engine(url)
    other_id = f"substr(one.{id}, 1, 24) || {seed.scrambled(engine)}"
    seed.multiply(engine, table, rows - 1, {id: other_id, **differing})
    seed.settle(engine)
    engine.dispose()


def _use_write_ahead_log(url: URL) -> None:
    """As the service does; MLflow's own choice writes twice and waits for the disk twice."""
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    engine.dispose()


@contextmanager
def _running(
    name: str, command: Sequence[str], env: Mapping[str, str], folder: Path
) -> Iterator[None]:
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    own = {"PYTHONPATH": str(REPOSITORY), **os.environ}
    part = Part(name, command, {**own, **env}, folder)
    part.start()
    try:
        yield
    finally:
        part.end(STOP_SECONDS)


def _wait_for(port: int, path: str, log: Path) -> None:
    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code < 500
        except httpx.TransportError:
            return False

    if not eventually(answers, seconds=START_SECONDS):
        tail = log.read_text(errors="replace")[-2000:]
        raise TimeoutError(f"{log.stem} did not answer in {START_SECONDS} s; its log:\n{tail}")
