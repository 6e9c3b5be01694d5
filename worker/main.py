"""Build the Celery application. Everything it needs arrives here.

Messages are wake-ups and nothing more: the database knows the work, so a lost message
costs nothing and a repeated one changes nothing. Hence early acknowledgement, no result
backend, no retries and no time limits. Training runs in processes of its own, so one
thread is all the pool there is (docs/decisions/0002-one-thread-per-worker.md).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from finlora_core.adapters.scrub import Scrubber
from finlora_core.errors import InvalidSettings
from finlora_core.queue import CELERY_SETTINGS, WAKE, Backlog, BestEffortQueue
from finlora_core.runs.reconcile import Reconciler, reconcile
from finlora_core.runs.sweep import Sweeper
from finlora_core.settings import Settings
from worker.attempt import work_until_idle
from worker.bench import Bench
from worker.reap import reap

OWN_SETTINGS: dict[str, Any] = {
    "worker_pool": "threads",
    "worker_concurrency": 1,
    "worker_disable_prefetch": True,  # prefetch_multiplier=1 still hoards one message
    "worker_hijack_root_logger": False,
    "worker_send_task_events": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,  # wait for the broker however long it is away
}

BuildBench = Callable[[Settings], Bench]


class TrainingWorker:
    """Ties Celery's signals to the bench and the reconciler."""

    def __init__(self, app: Celery, settings: Settings, build: BuildBench) -> None:
        self._app = app
        self._settings = settings
        self._build = build
        self._bench: Bench | None = None
        self._reconciler: Reconciler | None = None

    @property
    def bench(self) -> Bench:
        if self._bench is None:
            self._bench = self._build(self._settings)
        return self._bench

    def check(self, **_: Any) -> None:
        """Before Celery starts anything. It only logs exceptions here: SystemExit ends it."""
        try:
            self.bench.join()
        except InvalidSettings as error:
            raise SystemExit(f"{error.code}: {error}") from None

    def begin(self, **_: Any) -> None:
        """Look at the table at once: messages from before the start may be lost."""
        queue = BestEffortQueue(
            self._send, Backlog(self._settings.broker), (OperationalError, RedisError, OSError)
        )
        bench, settings = self.bench, self._settings
        duties = (
            bench.check_in,
            partial(reap, bench),
            partial(reconcile, bench.database, queue, settings),
            Sweeper(bench.database, bench.store, settings),
            Scrubber(bench.database, bench.store, settings),
        )
        self._reconciler = Reconciler(duties, every=settings.reconcile_seconds)
        self._reconciler.start()
        queue.offer("start")

    def drain(self, **_: Any) -> None:
        """TERM or Ctrl-C: let the training save a checkpoint, give the run back, then leave."""
        self.bench.draining.set()

    def end(self, **_: Any) -> None:
        if self._reconciler is not None:
            self._reconciler.stop()
        self.bench.leave()

    def _send(self, run_id: str) -> None:
        self._app.send_task(WAKE, args=[run_id], retry=False)


def create_worker(settings: Settings, build: BuildBench = Bench.build) -> Celery:
    app = Celery("finlora", broker=settings.broker)
    app.conf.update(CELERY_SETTINGS, **OWN_SETTINGS)
    worker = TrainingWorker(app, settings, build)

    @app.task(name=WAKE)  # type: ignore[untyped-decorator]
    def wake(run_id: str) -> None:
        """`run_id` is for the log: whichever run has waited longest is claimed."""
        work_until_idle(worker.bench)

    worker_init.connect(worker.check, weak=False)
    worker_ready.connect(worker.begin, weak=False)
    worker_shutting_down.connect(worker.drain, weak=False)
    worker_shutdown.connect(worker.end, weak=False)
    return app
