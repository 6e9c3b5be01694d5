"""`make demo`: the main job from nothing to a measured adapter, through the real service.

Nothing is downloaded: the base model is made on the spot, the dataset is bundled, and the
service is the embedded one of `finlora up`. The last line is JSON.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from finlora_core.cli.progress import reporting, run_words
from finlora_core.client import Client
from finlora_core.errors import FinLoRAError
from finlora_core.settings import Settings, load_settings
from finlora_core.stack import free_port, running_stack

HERE = Path(__file__).parent
HOME = Path(".finlora") / "demo"
BASE_MODEL = "finlora/tiny-llama"
HELDOUT = HERE / "data" / "sentiment_heldout.jsonl"
RUN_CONFIG = HERE / "run_config.json"

PLAN = """\
This demo takes about 3 minutes on 2 cores and needs no network and no GPU. It
  1. makes a tiny Llama and its tokenizer (1 M parameters, about a minute),
  2. starts the service: SQLite, a private Redis, the API and one worker,
  3. posts a FinLoRA run config (8-bit LoRA, r=8) and follows the real Axolotl training,
  4. downloads the adapter over HTTP and verifies its SHA-256,
  5. loads it with PEFT in a fresh process and measures it on held-out rows.
"""


class Demo:
    """The stages, and how long each took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.seconds: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        self._console.print(PLAN, soft_wrap=True)
        for name in list(os.environ):  # a demo must not publish where production does
            if name.startswith("FINLORA_") and name != "FINLORA_DEVICE":
                del os.environ[name]
        shutil.rmtree(HOME, ignore_errors=True)
        settings = load_settings(home=HOME, port=free_port(), dataset_roots=str(HERE / "data"))
        base = settings.models[0] / BASE_MODEL
        with self._stage("base model"):
            self._make_base(base)
        with ExitStack() as open_until_the_end:
            with self._stage("service"):
                stack = open_until_the_end.enter_context(running_stack(settings))
                self._console.print(f"  {stack.url}, Swagger UI at {stack.url}/docs")
            client = open_until_the_end.enter_context(Client(stack.url, stack.key))
            return self._train_and_measure(client, settings, base)

    def _train_and_measure(self, client: Client, settings: Settings, base: Path) -> dict[str, Any]:
        with self._stage("training"):
            run = self._train(client)
        with self._stage("download"):
            folder = client.download(run["adapter_id"], HOME / "downloads")
            adapter = client.get_adapter(run["adapter_id"])
            self._console.print(f"  {folder}: {len(adapter['files'])} files, every SHA-256 agrees")
        with self._stage("evaluation"):
            base_accuracy = _accuracy(base)
            adapter_accuracy = _accuracy(base, folder)
        self._console.print(
            f"  held-out accuracy: base {base_accuracy:.1%}, with the adapter "
            f"[bold]{adapter_accuracy:.1%}[/bold]"
        )
        return {
            "seconds": self.seconds,
            "base_accuracy": base_accuracy,
            "adapter_accuracy": adapter_accuracy,
            "adapter_path": str(settings.adapters / adapter["variant"] / adapter["name"]),
            "adapter_sha256": adapter["sha256"],
        }

    def _make_base(self, folder: Path) -> None:
        # here, not above: torch takes seconds to import, and the plan should show at once
        logging.disable(logging.WARNING)  # of optional GPU kernels that are not here
        os.environ.setdefault("TQDM_DISABLE", "1")
        from demo.tiny_base import build_tiny_base

        with reporting(self._console, "pre-training") as report:
            build_tiny_base(
                folder,
                report=lambda step, steps, loss: report(
                    step, steps, f"step {step}/{steps}  loss {loss:.3f}"
                ),
            )

    def _train(self, client: Client) -> dict[str, Any]:
        run = client.create_run(json.loads(RUN_CONFIG.read_text()))
        self._console.print(f"  POST /runs answered {run['id']} ({run['variant']})")
        with reporting(self._console, run["name"]) as report:
            run = client.wait(run["id"], lambda seen: report(*run_words(seen)))
        if run["status"] != "succeeded":
            error = run["error"] or {"code": run["status"], "hint": "", "log_tail": ""}
            sys.exit(f"{error['code']}: {error['hint']}\n{error['log_tail']}")
        return run

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        self._console.print(f"[bold]{name}[/bold]")
        yield
        self.seconds[name.replace(" ", "_")] = round(time.monotonic() - started, 1)


def _accuracy(base: Path, adapter: Path | None = None) -> float:
    """Share of held-out rows answered rightly, measured in a fresh process."""
    command = [sys.executable, "-m", "demo.accuracy", "--base", str(base), "--data", str(HELDOUT)]
    command += ["--adapter", str(adapter)] if adapter else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    accuracy: float = json.loads(done.stdout.splitlines()[-1])["accuracy"]
    return accuracy


def main() -> None:
    console = Console(highlight=False)
    try:
        result = Demo(console).run()
    except FinLoRAError as error:
        sys.exit(f"{error.code}: {error}")
    console.print(
        "\nTo start the service for real: [bold].venv/bin/finlora up[/bold] (Ctrl-C stops it); "
        "with GPUs: docker compose up -d, see docs/operations.md\n",
        soft_wrap=True,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
