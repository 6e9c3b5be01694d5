"""A real worker, whose trainer is the stand-in: `celery -A tests.chaos.worker_app worker`."""

import logging
from dataclasses import replace

from finlora_core.settings import Settings, load_settings
from tests.chaos.traits import Plan, train_command
from worker.bench import Bench
from worker.main import create_worker

logging.basicConfig(
    level=logging.INFO, format="%(asctime)s %(process)d %(threadName)s %(levelname)s %(message)s"
)


def build(settings: Settings) -> Bench:
    command = train_command(Plan.from_environment())
    return replace(Bench.build(settings), train_command=command)


app = create_worker(load_settings(), build)
