"""Post an evaluation: look at its data, then store it as a run of its kind."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from finlora_core import quotas
from finlora_core.access.keys import Caller
from finlora_core.datasets import registry
from finlora_core.db.models import Run
from finlora_core.evaluation.config import EvaluationRequest
from finlora_core.evaluation.plan import plan
from finlora_core.evaluation.sets import FoundSet, rows_in, sha256_of
from finlora_core.runs import lifecycle
from finlora_core.runs.kind import RunKind
from finlora_core.runs.lifecycle import Order, Work


def create_evaluation(
    session: Session,
    request: EvaluationRequest,
    caller: Caller,
    sets: Sequence[FoundSet],
    *,
    now: datetime,
) -> Run:
    """`sets` are the request's, found before the transaction.

    Raises `QuotaExceeded`, `InvalidRequest` for an adapter, and `DatasetNotFound` for an upload
    that is deleted meanwhile.
    """
    quotas.require_room_for_run(session, caller, now=now)
    registry.hold_for_run(session, caller.owner, _datasets(request))
    planned = plan(session, request, caller.owner)
    work = Work(
        kind=RunKind.EVALUATION,
        base_model=planned.base_model,
        variant=planned.variants,
        config=request.config.model_dump(mode="json"),
        config_sha256=request.config.sha256,
        dataset_rows=rows_in(sets, request.limit),
        dataset_sha256=sha256_of(sets),
    )
    order = Order.of(request, request.name or default_name(sets), caller.owner)
    return lifecycle.create(session, work, order, now=now)


def default_name(sets: Sequence[FoundSet]) -> str:
    """`tfns`, `tfns_fiqa`: what is to be judged."""
    return "_".join(dict.fromkeys(one.name for one in sets))[:128]


def _datasets(request: EvaluationRequest) -> Iterable[str | None]:
    return (one.dataset_path for one in request.tasks)
