"""Post a merge: store it as a run of its kind."""

from datetime import datetime

from sqlalchemy.orm import Session

from finlora_core import quotas
from finlora_core.access.keys import Caller
from finlora_core.datasets import registry
from finlora_core.db.models import Adapter, Run
from finlora_core.merging.config import MergeConfig, MergeRequest, MergeTerms
from finlora_core.merging.probes import Probe
from finlora_core.runs import lifecycle
from finlora_core.runs.kind import RunKind
from finlora_core.runs.lifecycle import Order, Work


def create_merge(
    session: Session,
    request: MergeRequest,
    adapter: Adapter,
    caller: Caller,
    probe: Probe,
    *,
    now: datetime,
) -> Run:
    """`probe` was found before the transaction. How large the model will be nobody knows yet:
    it may go past the owner's bytes, the next is refused then.

    Raises `QuotaExceeded`, `StorageQuotaExceeded`, and `DatasetNotFound` for an upload that is
    deleted meanwhile.
    """
    quotas.require_room_for_run(session, caller, now=now)
    quotas.require_room_for_bytes(session, caller, 1, now=now)
    registry.hold_for_run(session, caller.owner, [probe.written])
    terms = request.model_dump(include=set(MergeTerms.model_fields))
    terms["dataset_path"] = probe.written
    config = MergeConfig(**terms, adapter_id=adapter.id)
    work = Work(
        kind=RunKind.MERGE,
        base_model=adapter.base_model,
        variant=adapter.variant,
        config=config.model_dump(mode="json"),
        config_sha256=config.sha256,
        dataset_rows=len(probe.rows),
        dataset_sha256=probe.facts.sha256,
    )
    order = Order.of(request, request.name or adapter.name, caller.owner)
    return lifecycle.create(session, work, order, now=now)
