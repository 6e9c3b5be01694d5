"""What Celery runs: `celery -A worker.celery_app worker`."""

import logging

from finlora_core.settings import load_settings
from worker.main import create_worker

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
app = create_worker(load_settings())
