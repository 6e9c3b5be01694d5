"""Comparisons: is one model better than another on the same rows, or was it chance?"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Body, Path, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy.orm import Session

from api.access import requires
from api.audit import AuditDep
from api.deps import DatabaseDep
from api.errors import responses
from api.idempotency import OnceDep
from api.json import JSONLinesResponse, jsonl_responses
from api.pages import Cursor, Limit
from api.results import ResultRead
from api.strict import StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.audit.action import Action
from finlora_core.db.models import Comparison, EvaluationResult
from finlora_core.db.session import now
from finlora_core.evaluation import comparisons
from finlora_core.evaluation.compare import Changed, changed_rows
from finlora_core.evaluation.tasks import get_task
from finlora_core.runs.config import contradiction

router = APIRouter(
    prefix="/comparisons",
    tags=["comparisons"],
    responses=responses(401, 403, 422, 429, 503),
    route_class=StrictRoute,
)

EXAMPLES = {
    "adapters": {
        "summary": "Two adapters, by their newest results on the same rows of a task",
        "value": {
            "a": "adp_6f1c2a90d3e84b7f9a10_1",
            "b": "adp_0b7d41c2e9f34a6c8d15_1",
            "task": "tfns",
        },
    },
    "base": {
        "summary": "An adapter and its base model",
        "value": {"a": "adp_6f1c2a90d3e84b7f9a10_1", "b": "base"},
    },
    "results": {
        "summary": "Two results",
        "value": {"a": "res_1c0f2a90d3e84b7f9a10_001", "b": "res_1c0f2a90d3e84b7f9a10_002"},
    },
}

Reader = Annotated[Caller, requires(Scope.ADAPTERS_READ)]
Writer = Annotated[Caller, requires(Scope.ADAPTERS_WRITE)]
ComparisonId = Annotated[str, Path(description="`cmp_…`, as POST /comparisons answered it.")]
SideId = Annotated[
    str,
    StringConstraints(pattern=r"^(res_\w{1,64}|adp_\w{1,64}|base)$"),
    Field(
        description="A result (`res_…`), an adapter (`adp_…`), or `base`: the other side's base "
        "model. The latter two stand for their newest results on the same rows.",
        examples=["adp_6f1c2a90d3e84b7f9a10_1"],
    ),
]


class ComparisonRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    a: SideId
    b: SideId
    task: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Only results on this one. Default: of the sets that both have answered, "
        "the one that A was judged on last.",
        examples=["tfns"],
    )

    @model_validator(mode="after")
    def _has_two_sides(self) -> Self:
        if self.a == self.b:
            raise contradiction("b", "is the same as a")
        return self


class McNemarRead(BaseModel):
    """Rows that one side alone got right."""

    model_config = ConfigDict(from_attributes=True)

    only_a: int
    only_b: int
    p_value: float = Field(
        description="How likely so uneven a split is by chance (exact, two-sided)."
    )


class ChangedRow(BaseModel):
    line: int = Field(description="Of the dataset's file, counted from 1.")
    target: str = Field(examples=["positive"])
    a_output: str = Field(examples=["positive"])
    b_output: str = Field(examples=["neutral"])
    a_score: float
    b_score: float


class ComparisonRead(BaseModel):
    id: str
    a: ResultRead
    b: ResultRead
    metric: str = Field(examples=["accuracy"])
    rows: int
    difference: float = Field(description="A's value minus B's.")
    low: float = Field(description="Lower end of its 95 % interval (paired bootstrap over rows).")
    high: float
    mcnemar: McNemarRead | None = Field(
        description="Null where a score can be more than right or wrong."
    )
    better: Literal["A", "B"] | None = Field(description="Null: no difference can be shown.")
    verdict: str = Field(
        description="The same in words.", examples=["A is better: +3.1 points [1.2, 5.0]"]
    )
    changed_rows: int = Field(description="Rows that A and B have not the same score for.")
    examples: list[ChangedRow] = Field(description="The first of them.")
    created_at: datetime


class ComparisonPage(BaseModel):
    data: list[ComparisonRead]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


@router.post(
    "",
    status_code=201,
    operation_id="create_comparison",
    responses=responses(400, 409, 413, 415),
)
def create_comparison(
    wanted: Annotated[ComparisonRequest, Body(openapi_examples=EXAMPLES)],
    caller: Writer,
    response: Response,
    db: DatabaseDep,
    once: OnceDep,
    audit: AuditDep,
) -> ComparisonRead:
    """Compare two models row by row. Answers at once, and stores what it answers.

    409 where that says nothing: `different_rows` names the first difference."""
    if wanted.task is not None:
        get_task(wanted.task)
    with db.reading() as session:
        found = comparisons.find(session, caller.owner, wanted.a, wanted.b, wanted.task)
    compared, examples = comparisons.judge(found)
    with db.transaction() as session:
        at = now(session)

        def create() -> str:
            id = comparisons.store(session, found, compared, examples, now=at).id
            audit.note(session, caller, Action.COMPARISON_CREATED, id, now=at)
            return id

        made = once.make(session, caller.owner, create, now=at)
        read = _read(session, comparisons.get_comparison(session, caller.owner, made.id))
    response.headers["Location"] = f"/comparisons/{made.id}"
    return read


@router.get("", operation_id="list_comparisons")
def list_comparisons(
    caller: Reader, db: DatabaseDep, cursor: Cursor = None, limit: Limit = 50
) -> ComparisonPage:
    """Newest first, page by page."""
    with db.reading() as session:
        page = comparisons.list_comparisons(session, caller.owner, cursor=cursor, limit=limit)
        data = _read_all(session, page.rows)
    return ComparisonPage(data=data, next_cursor=page.next_cursor)


@router.get("/{comparison_id}", operation_id="get_comparison", responses=responses(404))
def get_comparison(comparison_id: ComparisonId, caller: Reader, db: DatabaseDep) -> ComparisonRead:
    """The difference, whether it is real, and some of the rows that it comes from."""
    with db.reading() as session:
        found = comparisons.get_comparison(session, caller.owner, comparison_id)
        return _read(session, found)


@router.get(
    "/{comparison_id}/rows",
    operation_id="get_comparison_rows",
    response_class=JSONLinesResponse,
    responses=jsonl_responses(404),
)
def get_comparison_rows(
    comparison_id: ComparisonId, caller: Reader, db: DatabaseDep
) -> JSONLinesResponse:
    """Every row that A and B have not the same score for, one JSON object a line: `line` of the
    dataset, `target`, and what both have answered and got for it."""
    with db.reading() as session:
        comparison = comparisons.get_comparison(session, caller.owner, comparison_id)
        sides = comparisons.sides_of(session, [comparison])
        a, b = sides[comparison.a_result_id], sides[comparison.b_result_id]
        found = comparisons.found_of(session, caller.owner, a, b)
    return JSONLinesResponse("".join(_lines(changed_rows(*found.outputs))))


def _lines(rows: Iterator[Changed]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(asdict(row), ensure_ascii=False) + "\n"


def _read(session: Session, comparison: Comparison) -> ComparisonRead:
    return _read_all(session, [comparison])[0]


def _read_all(session: Session, rows: Sequence[Comparison]) -> list[ComparisonRead]:
    sides = comparisons.sides_of(session, rows)
    return [_show(row, sides) for row in rows]


def _show(row: Comparison, sides: Mapping[str, EvaluationResult]) -> ComparisonRead:
    shown = {
        **vars(row),
        "a": ResultRead.model_validate(sides[row.a_result_id]),
        "b": ResultRead.model_validate(sides[row.b_result_id]),
        "mcnemar": None if row.p_value is None else McNemarRead.model_validate(row),
    }
    return ComparisonRead.model_validate(shown)
