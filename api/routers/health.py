"""Is the process alive, and can it do its work?"""

import shutil
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.deps import DatabaseDep, QueueDep, SettingsDep
from api.strict import StrictRoute
from finlora_core.db.session import Database
from finlora_core.settings import Settings

router = APIRouter(tags=["health"], route_class=StrictRoute)

MIB = 1024 * 1024


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Ready means: accepts runs and keeps them. Workers and broker may come later."""

    ready: bool
    database: Literal["ok", "unreachable"]
    broker: Literal["ok", "unreachable"] = Field(
        description="Without it runs are accepted, and wait until it is back."
    )
    workers: int = Field(description="Workers that answered a ping.")
    disk: Literal["ok", "low"] = Field(
        description="Free space in the home folder against FINLORA_MIN_FREE_DISK_MIB."
    )


@router.get("/healthz", operation_id="get_health")
def get_health() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz", operation_id="get_readiness", responses={503: {"model": Readiness}})
def get_readiness(
    response: Response, db: DatabaseDep, queue: QueueDep, settings: SettingsDep
) -> Readiness:
    """200 when runs can be accepted, 503 when not; each part is named."""
    database, workers = _database(db), queue.count_workers()
    readiness = Readiness(
        ready=database == "ok",
        database=database,
        broker="unreachable" if workers is None else "ok",
        workers=workers or 0,
        disk=_disk(settings),
    )
    response.status_code = 200 if readiness.ready else 503
    return readiness


def _database(db: Database) -> Literal["ok", "unreachable"]:
    try:
        with db.reading() as session:
            session.execute(text("SELECT 1 FROM runs LIMIT 1"))
    except SQLAlchemyError:
        return "unreachable"
    return "ok"


def _disk(settings: Settings) -> Literal["ok", "low"]:
    try:
        free = shutil.disk_usage(settings.home).free // MIB
    except OSError:  # no home yet: there is nothing to write to
        return "low"
    return "ok" if free >= settings.min_free_disk_mib else "low"
