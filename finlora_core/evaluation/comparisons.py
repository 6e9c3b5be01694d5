"""Comparisons: find the two results that are meant, store what came of it, list it."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session, aliased

from finlora_core.adapters import registry
from finlora_core.db.models import Comparison, EvaluationResult
from finlora_core.db.pages import Page, page
from finlora_core.errors import InvalidRequest, KeyProblem, NotComparable, NotFound
from finlora_core.evaluation import outputs, results
from finlora_core.evaluation.compare import Changed, Compared, changed_rows, compare
from finlora_core.evaluation.outputs import Output
from finlora_core.evaluation.tasks import Metric

BASE = "base"
"""In the place of an id: the other side's base model, without an adapter."""

EXAMPLES = 5
"""Changed rows that are stored with a comparison."""

Pair = tuple[EvaluationResult, EvaluationResult]


@dataclass(frozen=True)
class Found:
    """Two results, and what the two models have answered, packed."""

    a: EvaluationResult
    b: EvaluationResult
    packed: tuple[bytes, bytes]

    @property
    def outputs(self) -> tuple[Sequence[Output], Sequence[Output]]:
        a, b = self.packed
        return list(outputs.read(a)), list(outputs.read(b))


def find(session: Session, owner: str, a: str, b: str, task: str | None) -> Found:
    """`a` and `b` are each the id of a result, the id of an adapter, or `BASE`.

    Adapters and bases stand for their newest results on the same rows. Raises `InvalidRequest`
    naming `a` or `b`, and `NotComparable` for results that were judged in different ways.
    """
    ours, theirs = _filters(session, owner, "a", a, b), _filters(session, owner, "b", b, a)
    if task is not None:
        ours, theirs = {**ours, "task": task}, {**theirs, "task": task}
    pair = _newest_pair(session, ours, theirs) or (
        _newest(session, ours, "a", a),
        _newest(session, theirs, "b", b),
    )
    _require_same_measure(*pair)
    return found_of(session, owner, *pair)


def found_of(session: Session, owner: str, a: EvaluationResult, b: EvaluationResult) -> Found:
    packed = (results.packed_outputs(session, owner, one.run_id, one.id) for one in (a, b))
    return Found(a, b, (next(packed), next(packed)))


def judge(found: Found) -> tuple[Compared, Sequence[Changed]]:
    """Takes a moment: not for inside a transaction. The first `EXAMPLES` of the changed rows.

    Raises `DifferentRows`.
    """
    a, b = found.outputs
    return compare(Metric(found.a.metric), a, b), list(islice(changed_rows(a, b), EXAMPLES))


def store(
    session: Session,
    found: Found,
    compared: Compared,
    examples: Sequence[Changed],
    *,
    now: datetime,
) -> Comparison:
    split, difference = compared.mcnemar, compared.difference
    comparison = Comparison(
        id=f"cmp_{uuid.uuid4().hex[:20]}",
        created_at=now,
        owner=found.a.owner,
        a_result_id=found.a.id,
        b_result_id=found.b.id,
        a_adapter_id=found.a.adapter_id,
        b_adapter_id=found.b.adapter_id,
        metric=found.a.metric,
        rows=compared.rows,
        changed_rows=compared.changed,
        examples=[asdict(one) for one in examples],
        difference=difference.difference,
        low=difference.low,
        high=difference.high,
        only_a=split and split.only_a,
        only_b=split and split.only_b,
        p_value=split and split.p_value,
        better=difference.better,
        verdict=compared.verdict,
    )
    session.add(comparison)
    session.flush()
    return comparison


def get_comparison(session: Session, owner: str, id: str) -> Comparison:
    """Raises `NotFound`."""
    comparison = session.scalars(select(Comparison).filter_by(id=id, owner=owner)).first()
    if comparison is None:
        raise NotFound("comparison", id)
    return comparison


def list_comparisons(
    session: Session, owner: str, *, cursor: str | None, limit: int
) -> Page[Comparison]:
    """Newest first. Raises `InvalidCursor`."""
    own = select(Comparison).filter_by(owner=owner)
    return page(session, own, Comparison, cursor, limit)


def sides_of(
    session: Session, comparisons: Sequence[Comparison]
) -> Mapping[str, EvaluationResult]:
    """The results that were compared, by their ids."""
    ids = {id for one in comparisons for id in (one.a_result_id, one.b_result_id)}
    of_ids = select(EvaluationResult).where(EvaluationResult.id.in_(ids))
    return {row.id: row for row in session.scalars(of_ids)}


def _filters(session: Session, owner: str, key: str, id: str, other: str) -> dict[str, Any]:
    """What the columns of a side's result must be. Raises `InvalidRequest`."""
    try:
        if id.startswith("res_"):
            return {"owner": owner, "id": _get_result(session, owner, id).id}
        if id != BASE:
            return {"owner": owner, "adapter_id": registry.get_adapter(session, owner, id).id}
        base_model = _base_of(session, owner, other)
        return {"owner": owner, "adapter_id": None, "base_model": base_model}
    except NotFound as error:
        raise InvalidRequest(KeyProblem(key, "invalid_value", str(error))) from None


def _base_of(session: Session, owner: str, id: str) -> str:
    if id.startswith("res_"):
        return _get_result(session, owner, id).base_model
    return registry.get_adapter(session, owner, id).base_model


def _get_result(session: Session, owner: str, id: str) -> EvaluationResult:
    result = session.scalars(select(EvaluationResult).filter_by(id=id, owner=owner)).first()
    if result is None:
        raise NotFound("evaluation result", id)
    return result


def _newest_pair(
    session: Session, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Pair | None:
    a, b = aliased(EvaluationResult), aliased(EvaluationResult)
    alike = and_(
        a.rows_sha256 == b.rows_sha256,
        a.metric == b.metric,
        a.tolerance.is_not_distinct_from(b.tolerance),
        a.task.is_not_distinct_from(b.task),
    )
    pairs = select(a, b).join(b, alike).where(*_are(a, ours), *_are(b, theirs))
    newest = pairs.order_by(a.created_at.desc(), a.id.desc(), b.created_at.desc(), b.id.desc())
    found = session.execute(newest.limit(1)).first()
    return (found[0], found[1]) if found else None


def _are(result: Any, wanted: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """SQLAlchemy makes IS NULL of a None."""
    return [getattr(result, name) == value for name, value in wanted.items()]


def _newest(session: Session, wanted: Mapping[str, Any], key: str, id: str) -> EvaluationResult:
    of_side = select(EvaluationResult).where(*_are(EvaluationResult, wanted))
    newest = of_side.order_by(EvaluationResult.created_at.desc(), EvaluationResult.id.desc())
    found = session.scalars(newest.limit(1)).first()
    if found is None:
        on = f" on {wanted['task']}" if wanted.get("task") else ""
        what = f"the base model {wanted['base_model']}" if id == BASE else id
        message = f"{what} has no result{on}: evaluate it first (POST /evaluations)"
        raise InvalidRequest(KeyProblem(key, "invalid_value", message))
    return found


def _require_same_measure(a: EvaluationResult, b: EvaluationResult) -> None:
    for one, side in ((a, "A"), (b, "B")):
        if one.value is None:
            raise NotComparable(f"no row of {side}'s result counts")
    ours, theirs = _measure(a), _measure(b)
    if ours != theirs:
        raise NotComparable(f"A was judged by {ours}, B by {theirs}")


def _measure(result: EvaluationResult) -> str:
    """What a score of it means."""
    measure = result.metric
    if labels := sorted(str(one["label"]) for one in result.summary.get("labels", ())):
        measure += f" of {', '.join(labels)}"
    if result.tolerance is not None:
        measure += f" within {result.tolerance:g}"
    return f"{measure} on {result.task}" if result.task is not None else measure
