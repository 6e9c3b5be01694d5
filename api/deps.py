"""What a route needs, taken from where `create_app` put it.

Async, since FastAPI would hand each of them to a thread otherwise, for every request.
"""

from typing import Annotated

from fastapi import Depends, Request

from api.hub import Hub
from api.looks import Looks
from api.queue import WorkerQueue
from finlora_core.adapters.store import AdapterStore, MergedStore
from finlora_core.datasets.files import DatasetFiles
from finlora_core.db.session import Database
from finlora_core.settings import Settings


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _looks(request: Request) -> Looks:
    looks: Looks = request.app.state.looks
    return looks


async def _queue(request: Request) -> WorkerQueue:
    queue: WorkerQueue = request.app.state.queue
    return queue


async def _store(request: Request) -> AdapterStore:
    store: AdapterStore = request.app.state.store
    return store


async def _merged(request: Request) -> MergedStore:
    settings: Settings = request.app.state.settings
    return MergedStore(settings.adapters)


async def _dataset_files(request: Request) -> DatasetFiles:
    settings: Settings = request.app.state.settings
    return DatasetFiles(settings.uploads)


async def _hub(request: Request) -> Hub:
    hub: Hub = request.app.state.hub
    return hub


SettingsDep = Annotated[Settings, Depends(_settings)]
HubDep = Annotated[Hub, Depends(_hub)]
LooksDep = Annotated[Looks, Depends(_looks)]
DatabaseDep = Annotated[Database, Depends(_database)]
QueueDep = Annotated[WorkerQueue, Depends(_queue)]
StoreDep = Annotated[AdapterStore, Depends(_store)]
MergedDep = Annotated[MergedStore, Depends(_merged)]
DatasetFilesDep = Annotated[DatasetFiles, Depends(_dataset_files)]
