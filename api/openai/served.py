"""Which model is meant below /v1, and where its files are."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from api.openai import names
from finlora_core.adapters import registry
from finlora_core.adapters.manifest import File
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database
from finlora_core.errors import NotFound, PlaygroundUnavailable
from finlora_core.playground import Model, bits_of
from finlora_core.runs import queries
from finlora_core.runs.config import PromptFormat, RunConfig
from finlora_core.settings import Settings
from finlora_core.training.base_model import find_base_model, list_base_models


@dataclass(frozen=True)
class Served:
    """A model that can be asked."""

    model: Model
    form: PromptFormat | None
    """In which its prompts were trained; None where nobody knows. A base model takes chats."""


def find_served(
    db: Database, settings: Settings, store: AdapterStore, owner: str, name: str
) -> Served:
    """A finished adapter of the owner's, by its name or its id, or a base model at hand.

    Raises `NotFound`, `AdapterDamaged`, `AdapterFilesMissing`, and `PlaygroundUnavailable`
    without the adapter's base.
    """
    if names.adapter_id(name) is None:
        return Served(Model(base=_require_listed(settings, name)), PromptFormat.CHAT)
    with db.reading() as session:
        adapter = find_adapter(session, owner, name)
        form = _form(session, adapter)
    registry.require_sound(adapter)
    folder = store.require(adapter.id, map(File.model_validate, adapter.files))
    base = _require_base(settings, adapter.base_model)
    return Served(Model(base=base, adapter=folder, quant_bits=bits_of(adapter.variant)), form)


def find_adapter(session: Session, owner: str, name: str) -> Adapter:
    """By what /v1/models lists, or by its id. Raises `NotFound`."""
    try:
        adapter = registry.get_adapter(session, owner, names.adapter_id(name) or name)
    except NotFound:
        raise NotFound("model", name) from None
    if name not in (adapter.id, names.model_of(adapter)):
        raise NotFound("model", name)
    return adapter


def _form(session: Session, adapter: Adapter) -> PromptFormat | None:
    if adapter.run_id is None:
        return None
    run = queries.get_run(session, adapter.owner, adapter.run_id)
    return RunConfig.model_validate(run.config).prompt_format


def _roots(settings: Settings) -> tuple[Path, ...]:
    return (*settings.models, settings.fetched_models)


def _require_listed(settings: Settings, name: str) -> Path:
    folder = list_base_models(_roots(settings)).get(name)
    if folder is None:
        raise NotFound("model", name)
    return folder


def _require_base(settings: Settings, name: str) -> Path:
    folder = find_base_model(name, _roots(settings))
    if folder is None:
        raise PlaygroundUnavailable(
            f"the adapter's base model {name} is not on this machine; put its folder below one "
            "of FINLORA_MODELS_DIRS"
        )
    return folder
