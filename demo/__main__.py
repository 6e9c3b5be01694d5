"""`make demo`: the main job from nothing to a measured adapter, through the real service.

Nothing is downloaded: the base model is made on the spot, the dataset is bundled, and the
service is the embedded one of `finlora up`. The last line is JSON.
"""

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from finlora_core.cli.follow import follow, say_failure
from finlora_core.cli.progress import reporting
from finlora_core.cli.results import say_results
from finlora_core.client import Client
from finlora_core.errors import FinLoRAError
from finlora_core.settings import Settings, load_settings
from finlora_core.stack import free_port, running_stack

HERE = Path(__file__).parent
HOME = Path(".finlora") / "demo"
BASE_MODEL = "finlora/tiny-llama"
HELDOUT = "sentiment_heldout.jsonl"
RUN_CONFIG = HERE / "run_config.json"

PLAN = """\
This demo takes about 3 minutes on 2 cores and needs no network and no GPU. It
  1. makes a tiny Llama and its tokenizer (1 M parameters, about a minute),
  2. starts the service: SQLite, a private Redis, the API and one worker,
  3. posts a FinLoRA run config (8-bit LoRA, r=8) and follows the real Axolotl training,
  4. downloads the adapter over HTTP and verifies its SHA-256,
  5. posts an evaluation of the base and the adapter on held-out rows, and shows the results.
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
            return self._train_and_measure(client, settings)

    def _train_and_measure(self, client: Client, settings: Settings) -> dict[str, Any]:
        with self._stage("training"):
            run = self._train(client)
        with self._stage("download"):
            folder = client.download(run["adapter_id"], HOME / "downloads")
            adapter = client.get_adapter(run["adapter_id"])
            words = f"  {folder}: {len(adapter['files'])} files, every SHA-256 agrees"
            self._console.print(words, soft_wrap=True)
        with self._stage("evaluation"):
            accuracy = self._evaluate(client, adapter["id"])
        return {
            "seconds": self.seconds,
            "base_accuracy": accuracy[None],
            "adapter_accuracy": accuracy[adapter["id"]],
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
        return _succeeded(client, run)

    def _evaluate(self, client: Client, adapter_id: str) -> dict[str | None, float]:
        """Share of held-out rows answered rightly, of the adapter and, as None, of its base."""
        evaluation = client.create_evaluation(
            {
                "adapters": [adapter_id],
                "base_model": BASE_MODEL,
                "tasks": [{"dataset_path": HELDOUT, "metric": "accuracy"}],
            }
        )
        self._console.print(f"  POST /evaluations answered {evaluation['id']}")
        results = _succeeded(client, evaluation)["results"]
        say_results(client, results)
        return {each["adapter_id"]: round(each["value"], 4) for each in results}

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        self._console.print(f"[bold]{name}[/bold]")
        yield
        self.seconds[name.replace(" ", "_")] = round(time.monotonic() - started, 1)


def _succeeded(client: Client, run: dict[str, Any]) -> dict[str, Any]:
    """Followed to its end; the demo ends with it when it fails."""
    ended = follow(client, run)
    if ended["status"] != "succeeded":
        say_failure(ended)
        sys.exit(1)
    return ended


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
