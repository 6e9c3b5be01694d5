"""Models: what can be trained on, and what has been trained."""

from pathlib import Path as FilePath
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from api.access import requires
from api.deps import DatabaseDep, SettingsDep
from api.openai import names
from api.openai.errors import responses
from api.openai.lists import ListOf, list_of
from api.openai.served import find_adapter
from api.strict import StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.adapters import registry
from finlora_core.db.models import Adapter
from finlora_core.errors import NotFound
from finlora_core.settings import Settings
from finlora_core.training.base_model import list_base_models

router = APIRouter(
    prefix="/v1/models",
    tags=["openai: models"],
    responses=responses(401, 403, 429, 503),
    route_class=StrictRoute,
)

Reader = Annotated[Caller, requires(Scope.ADAPTERS_READ)]
NEWEST = 1000
"""Adapters that are listed; any other is found by its name."""


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = Field(description="A base model's organisation, an adapter's owner.")


@router.get("", operation_id="openai_list_models")
def list_models(caller: Reader, settings: SettingsDep, db: DatabaseDep) -> ListOf[ModelObject]:
    """The base models at hand on this server, then your finished adapters, the newest first."""
    with db.reading() as session:
        page = registry.list_adapters(
            session,
            caller.owner,
            name=None,
            variant=None,
            base_model=None,
            run_id=None,
            stage=None,
            cursor=None,
            limit=NEWEST,
        )
    adapters = [_show_adapter(row) for row in page.rows]
    return list_of([*_base_models(settings), *adapters], has_more=False)


@router.get("/{model_id:path}", operation_id="openai_get_model", responses=responses(400, 404))
def get_model(
    model_id: Annotated[str, Path(description="As the list shows it, slashes and all.")],
    caller: Reader,
    settings: SettingsDep,
    db: DatabaseDep,
) -> ModelObject:
    """A base model at hand here, or a finished adapter."""
    if names.adapter_id(model_id) is not None:
        with db.reading() as session:
            return _show_adapter(find_adapter(session, caller.owner, model_id))
    for model in _base_models(settings):
        if model.id == model_id:
            return model
    raise NotFound("model", model_id)


def _base_models(settings: Settings) -> list[ModelObject]:
    found = list_base_models((*settings.models, settings.fetched_models))
    return [_show_base(name, folder) for name, folder in sorted(found.items())]


def _show_base(name: str, folder: FilePath) -> ModelObject:
    created = int((folder / "config.json").stat().st_mtime)
    return ModelObject(id=name, created=created, owned_by=name.partition("/")[0])


def _show_adapter(adapter: Adapter) -> ModelObject:
    return ModelObject(
        id=names.model_of(adapter),
        created=int(adapter.created_at.timestamp()),
        owned_by=adapter.owner,
    )
