"""Move an adapter to another stage: the only writer of `Adapter.stage`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from finlora_core.adapters import registry
from finlora_core.db.models import Adapter, Comparison, EvaluationResult, StageMove
from finlora_core.errors import (
    EvidenceLacking,
    IllegalStage,
    InvalidRequest,
    KeyProblem,
    StageChanged,
)
from finlora_core.stages.stage import STEPS, Evidence, Stage, lacking


@dataclass(frozen=True)
class Wish:
    stage: Stage
    comparison_id: str | None = None
    """Which comparison is the evidence; None: the newest."""
    override: str | None = None
    """Why it is promoted without."""


def move(
    session: Session, owner: str, adapter_id: str, wish: Wish, *, now: datetime
) -> StageMove | None:
    """None when it is there already. Whoever was in production goes back to staging.

    Raises `NotFound`, `IllegalStage`, `AdapterDamaged`, `EvidenceLacking`, `InvalidRequest` for
    a comparison that there is not, and `StageChanged` when another move comes first.
    """
    adapter = registry.get_adapter(session, owner, adapter_id)
    if adapter.stage is wish.stage:
        return None
    if wish.stage not in STEPS[adapter.stage]:
        nexts = " or ".join(sorted(STEPS[adapter.stage]))
        raise IllegalStage(f"{adapter.id} is in stage {adapter.stage}: next comes {nexts}")
    if wish.stage is Stage.PRODUCTION:
        return _promote(session, adapter, wish, now)
    return _step(session, adapter, wish.stage, now)


def history(session: Session, adapter_id: str) -> Sequence[StageMove]:
    """The newest first."""
    moves = select(StageMove).filter_by(adapter_id=adapter_id)
    return session.scalars(moves.order_by(StageMove.id.desc())).all()


def _promote(session: Session, adapter: Adapter, wish: Wish, now: datetime) -> StageMove:
    registry.require_sound(adapter)
    incumbent = _in_production(session, adapter)
    evidence = _evidence(session, adapter, incumbent, wish.comparison_id)
    if fault := lacking(_shown(adapter, incumbent), evidence, wish.override):
        raise EvidenceLacking(f"{adapter.id} stays in {adapter.stage}: {fault}")
    comparison_id = evidence.comparison_id if evidence else None
    if incumbent:
        _step(session, incumbent, Stage.STAGING, now, replaced_by=adapter.id)
    why = {"comparison_id": comparison_id, "override": wish.override}
    return _step(session, adapter, Stage.PRODUCTION, now, **why)


def _in_production(session: Session, adapter: Adapter) -> Adapter | None:
    """Whose place `adapter` is to take."""
    same = {"owner": adapter.owner, "name": adapter.name, "stage": Stage.PRODUCTION}
    return session.scalars(select(Adapter).filter_by(**same)).first()


def _shown(adapter: Adapter, incumbent: Adapter | None) -> str:
    if incumbent is None:
        return f"its base model {adapter.base_model}"
    return f"{incumbent.id}, which is in production"


def _evidence(
    session: Session, adapter: Adapter, incumbent: Adapter | None, comparison_id: str | None
) -> Evidence | None:
    """The newest comparison of the two, or this one, whichever side the adapter is on."""
    theirs = select(EvaluationResult.id).where(
        EvaluationResult.adapter_id == (incumbent.id if incumbent else None),
        EvaluationResult.base_model == (incumbent or adapter).base_model,
    )
    as_a = and_(Comparison.a_adapter_id == adapter.id, Comparison.b_result_id.in_(theirs))
    as_b = and_(Comparison.b_adapter_id == adapter.id, Comparison.a_result_id.in_(theirs))
    between = select(Comparison).where(Comparison.owner == adapter.owner, or_(as_a, as_b))
    if comparison_id is not None:
        between = between.where(Comparison.id == comparison_id)
    newest = between.order_by(Comparison.created_at.desc(), Comparison.id.desc())
    found = session.scalars(newest.limit(1)).first()
    if found is not None:
        side = "A" if found.a_adapter_id == adapter.id else "B"
        return Evidence(found.id, found.rows, found.better == side, found.verdict)
    if comparison_id is None:
        return None
    message = f"there is no such comparison with {_shown(adapter, incumbent)}"
    raise InvalidRequest(KeyProblem("comparison_id", "invalid_value", message))


def _step(
    session: Session, adapter: Adapter, stage: Stage, now: datetime, **why: Any
) -> StageMove:
    """Out of the stage that it was read in, or not at all."""
    old = adapter.stage
    guarded = update(Adapter).where(Adapter.id == adapter.id, Adapter.stage == old)
    try:
        moved = session.scalars(guarded.values(stage=stage).returning(Adapter.id)).first()
    except IntegrityError:  # another one has come into production
        moved = None
    if moved is None:
        raise StageChanged(f"another move of {adapter.name} came first; look again")
    step = StageMove(adapter_id=adapter.id, at=now, old=old, new=stage, **why)
    session.add(step)
    session.flush()
    return step
