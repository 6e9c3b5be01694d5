"""What has been found out: write results, list them, read the rows behind one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from finlora_core.db.models import EvaluationOutputs, EvaluationResult, Run
from finlora_core.errors import NotFound
from finlora_core.evaluation import outputs
from finlora_core.evaluation.metrics import judge
from finlora_core.evaluation.outputs import Answer, Meaning, Output
from finlora_core.evaluation.plan import Subject
from finlora_core.evaluation.sets import FoundSet, Rows
from finlora_core.evaluation.statistics import bootstrap_interval
from finlora_core.evaluation.summary import summarise
from finlora_core.evaluation.tasks import Metric

NEWEST = 100
"""Results that an adapter shows."""


@dataclass(frozen=True)
class Result:
    """How `subject` has answered the rows of `of`."""

    subject: Subject
    of: FoundSet
    rows: Rows
    outputs: Sequence[Output]
    summary: dict[str, Any]
    interval: tuple[float, float]


def make_result(
    subject: Subject,
    of: FoundSet,
    rows: Rows,
    answers: Sequence[Answer],
    meaning: Meaning | None = None,
) -> Result:
    """`answers` are those to `rows`, one each."""
    judged = [
        judge(of.task, answer.text, row.target)
        for row, answer in zip(rows.rows, answers, strict=True)
    ]
    interval = bootstrap_interval([one.score for one in judged], [one.weight for one in judged])
    scores = meaning.scores if meaning and len(meaning.scores) == len(judged) else None
    summary = summarise(of.task, judged, rows.targets, bert_scores=scores)
    if meaning is not None and scores:
        summary["bert_scorer"] = meaning.scorer
    summary["too_long"] = sum(answer.too_long for answer in answers)
    written = [
        Output.of(row, answer.text, one)
        for row, answer, one in zip(rows.rows, answers, judged, strict=True)
    ]
    return Result(subject, of, rows, written, summary, interval)


def store(session: Session, run: Run, results: Sequence[Result]) -> None:
    """Of an evaluation that has just succeeded."""
    for number, result in enumerate(results, start=1):
        row = _row(run, number, result)
        session.add(row)
        session.flush()  # first what the outputs refer to
        packed = outputs.pack(result.outputs)
        session.add(EvaluationOutputs(result_id=row.id, jsonl=packed))


def results_of(
    session: Session, run_ids: Sequence[str]
) -> Mapping[str, Sequence[EvaluationResult]]:
    """By evaluation, in the order in which they were asked for."""
    of_runs = select(EvaluationResult).where(EvaluationResult.run_id.in_(run_ids))
    found: dict[str, list[EvaluationResult]] = {}
    for row in session.scalars(of_runs.order_by(EvaluationResult.id)):
        found.setdefault(row.run_id, []).append(row)
    return found


def newest_of(session: Session, adapter_id: str) -> Sequence[EvaluationResult]:
    """Of an adapter, the newest first; of a set that was judged again, only the newest."""
    of_adapter = select(EvaluationResult).where(EvaluationResult.adapter_id == adapter_id)
    newest = of_adapter.order_by(EvaluationResult.created_at.desc(), EvaluationResult.id.desc())
    found: dict[tuple[object, ...], EvaluationResult] = {}
    for row in session.scalars(newest.limit(NEWEST)):
        measure = (row.task, row.metric, row.tolerance)
        found.setdefault((*measure, row.dataset_path, row.rows_sha256), row)
    return list(found.values())


def packed_outputs(session: Session, owner: str, run_id: str, id: str) -> bytes:
    """Of a result of this evaluation's. Raises `NotFound`."""
    result = select(EvaluationResult.id).filter_by(id=id, owner=owner, run_id=run_id)
    packed = select(EvaluationOutputs.jsonl).where(
        EvaluationOutputs.result_id == result.scalar_subquery()
    )
    found = session.scalars(packed).first()
    if found is None:
        raise NotFound("evaluation result", id)
    return found


def _row(run: Run, number: int, result: Result) -> EvaluationResult:
    subject, of = result.subject, result.of
    low, high = result.interval
    value = result.summary.pop("value")
    assert run.finished_at is not None  # noqa: S101  # for mypy: it has succeeded
    return EvaluationResult(
        id=f"res_{run.id.removeprefix('eval_')}_{number:03}",
        created_at=run.finished_at,
        run_id=run.id,
        owner=run.owner,
        adapter_id=subject.adapter_id,
        base_model=run.base_model,
        quant_bits=subject.quant_bits,
        task=of.task.name,
        dataset_path=of.written,
        dataset_sha256=of.facts.sha256,
        prompt_format=of.form,
        rows=len(result.rows.rows),
        rows_sha256=result.rows.sha256,
        metric=of.task.metric,
        tolerance=float(of.task.tolerance) if of.task.metric is Metric.NUMERIC else None,
        value=value,
        low=low,
        high=high,
        summary=result.summary,
    )
