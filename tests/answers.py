"""An evaluation that ends with given answers, as a worker ends it, but without a model."""

from collections.abc import Sequence
from datetime import timedelta

from finlora_core.datasets.cache import DatasetChecker
from finlora_core.db.session import Database, now
from finlora_core.evaluation import results
from finlora_core.evaluation.config import EvaluationConfig
from finlora_core.evaluation.plan import plan
from finlora_core.evaluation.results import make_result
from finlora_core.evaluation.sets import find_sets
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.settings import Settings
from tests.support import POLICY
from worker.errand import Answer


def answer(database: Database, settings: Settings, id: str, *answers: Sequence[str]) -> None:
    """End the evaluation, which must be the first in line and have one set: each of its models
    gives one of the `answers`, a text a row."""
    with database.transaction() as session:
        ttl = timedelta(minutes=2)
        lease = lifecycle.claim_next(session, worker="w", now=now(session), ttl=ttl)
        assert lease is not None
        assert lease.run_id == id
        run = queries.get_any_run(session, id)
        config = EvaluationConfig.model_validate(run.config)
        (of,) = find_sets(config, run.owner, settings, DatasetChecker())
        rows = of.rows(config.limit, config.seed)
        found = [
            make_result(
                subject,
                of,
                rows,
                [Answer(model=m, set=0, row=n, text=text) for n, text in enumerate(texts)],
            )
            for m, (subject, texts) in enumerate(
                zip(plan(session, config, run.owner).subjects, answers, strict=True)
            )
        ]
        end = AttemptEnd(end=End.COMPLETED)
        lifecycle.finish(session, lease, end, now=now(session), policy=POLICY)
        results.store(session, run, found)
