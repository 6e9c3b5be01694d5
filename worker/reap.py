"""Take runs back from workers of this host that are dead, without waiting for their leases."""

import logging

from finlora_core.db.session import now
from finlora_core.runs import lifecycle
from finlora_core.runs.outcome import RetryPolicy
from finlora_core.settings import KILL_MARGIN
from finlora_core.training.files import RunFiles
from worker import survivors
from worker.bench import Bench
from worker.host import ProcessId

logger = logging.getLogger(__name__)


def reap(bench: Bench) -> None:
    """End what dead workers have left running, then queue their runs again."""
    here = ProcessId.current()
    with bench.database.reading() as session:
        held = lifecycle.held_leases(session)
    for worker, lease in held:
        holder = ProcessId.parse(worker)
        if holder is None or not holder.is_dead(here):
            continue
        files = RunFiles.of(bench.settings.runs, lease.run_id)
        if not survivors.end(files.root, seconds=KILL_MARGIN):
            continue  # the lease decides then
        with bench.database.transaction() as session:
            policy = RetryPolicy.of(bench.settings)
            status = lifecycle.take_back(session, lease, now=now(session), policy=policy)
        logger.warning("run %s: its worker is dead; the run is %s", lease.run_id, status)
