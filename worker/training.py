"""A training, readable as a list: prepare, train, publish."""

from finlora_core.runs.status import Phase
from worker.bench import Bench
from worker.facts import Training
from worker.finish import Product, adapter_of
from worker.prepare import prepare
from worker.publish import publish
from worker.supervise import Keeper, Watch
from worker.train import train


def perform_training(bench: Bench, attempt: Training, watch: Watch) -> Product:
    """Raises `AttemptEnded`, `LeaseLost`."""
    _keep_what_they_saved(attempt, watch)
    given = prepare(bench, attempt, watch)
    bench.enter_phase(attempt.lease, Phase.TRAINING)
    train(bench, attempt, given, watch)
    bench.enter_phase(attempt.lease, Phase.PUBLISHING)
    return adapter_of(bench, attempt, publish(bench, attempt))


def _keep_what_they_saved(attempt: Training, watch: Watch) -> None:
    """Checkpoints that earlier attempts finished after their worker had died.

    Since the boot only: what was written before a power cut need not have reached the disk.
    """
    for number in attempt.earlier_here:
        Keeper(attempt.run_files, number, attempt.lineage, watch.heartbeat).look()
