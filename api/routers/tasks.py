"""What can be evaluated without more ado: FinLoRA's tasks, and which test sets are at hand."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.access import requires
from api.deps import SettingsDep
from api.errors import responses
from api.strict import StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.evaluation.sets import find_test_set, paths_of_test_set
from finlora_core.evaluation.tasks import Metric, Task, load_tasks
from finlora_core.settings import Settings

router = APIRouter(
    prefix="/tasks",
    tags=["evaluations"],
    responses=responses(401, 403, 422, 429, 503),
    route_class=StrictRoute,
)

Reader = Annotated[Caller, requires(Scope.RUNS_READ)]


class PublishedRead(BaseModel):
    """A figure of FinLoRA's."""

    model_config = ConfigDict(from_attributes=True)

    base_model: str = Field(examples=["meta-llama/Llama-3.1-8B-Instruct"])
    variant: str | None = Field(
        description="None for the base model itself.", examples=["8bits_r8"]
    )
    metric: str = Field(
        description="`accuracy`, or as a result's `summary` names it: `f1_weighted`, "
        "`bert_score`.",
        examples=["accuracy"],
    )
    value: float = Field(description="Between 0 and 1.", examples=[0.8802])


class TaskRead(BaseModel):
    name: str = Field(description="For `task` of POST /evaluations.", examples=["tfns"])
    title: str = Field(examples=["Twitter Financial News: sentiment of tweets"])
    metric: Metric
    labels: list[str] = Field(
        description="What an answer is chosen from; empty where it is not.",
        examples=[["negative", "neutral", "positive"]],
    )
    max_new_tokens: int = Field(description="Of one answer.", examples=[10])
    dataset_path: str | None = Field(
        description="The test set, inside a dataset root; null where it is not at hand.",
        examples=["tfns_test.jsonl"],
    )
    looked_for: list[str] = Field(
        description="Where it may lie inside a dataset root.",
        examples=[["../data/test/tfns_test.jsonl", "tfns_test.jsonl"]],
    )
    published: list[PublishedRead] = Field(description="FinLoRA's own results.")


class TaskList(BaseModel):
    data: list[TaskRead]


@router.get("", operation_id="list_tasks")
def list_tasks(caller: Reader, settings: SettingsDep) -> TaskList:
    """FinLoRA's evaluation tasks: how each is judged, and whether its rows are at hand."""
    return TaskList(data=[_show(name, task, settings) for name, task in load_tasks().items()])


def _show(name: str, task: Task, settings: Settings) -> TaskRead:
    found = find_test_set(task, settings.datasets)
    return TaskRead(
        name=name,
        title=task.title,
        metric=task.metric,
        labels=list(task.labels),
        max_new_tokens=task.max_new_tokens,
        dataset_path=found[0] if found else None,
        looked_for=list(paths_of_test_set(task)),
        published=[PublishedRead.model_validate(each) for each in task.published],
    )
