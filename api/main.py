"""Build the application. Everything it needs arrives here; nothing below reads the environment."""

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import openai
from api.access import Doorman
from api.beside import beside_requests
from api.document import complete_document
from api.edge import Edge, Hosts
from api.errors import install_error_handlers
from api.hub import Hub
from api.limits import RequestLimit, ShowLimits
from api.looks import Looks
from api.queue import WorkerQueue
from api.routers import (
    adapters,
    audit,
    comparisons,
    datasets,
    evaluations,
    health,
    journal,
    keys,
    merges,
    runs,
    tasks,
    webhooks,
)
from api.swagger import add_swagger_ui
from finlora_core.access.pepper import load_pepper
from finlora_core.access.quota import Quota
from finlora_core.adapters.store import AdapterStore
from finlora_core.datasets.cache import DatasetChecker
from finlora_core.db.session import Database
from finlora_core.settings import Settings

ROUTERS = (
    runs.router,
    journal.router,
    evaluations.router,
    comparisons.router,
    tasks.router,
    datasets.router,
    adapters.router,
    merges.router,
    keys.router,
    audit.router,
    webhooks.router,
    health.router,
    *openai.routers,
)

DESCRIPTION = """\
Post a FinLoRA run config, poll the run, download the adapter.

1. `POST /runs` answers at once with a queued run.
2. `GET /runs/{run_id}` shows status, step, loss and time left.
3. `GET /adapters/{adapter_id}/download` gives the finished adapter as one archive.

Every request but those for health carries an API key: press Authorize, and paste it.
Errors are `application/problem+json` with a stable `code`.
"""


def create_app(
    *, settings: Settings, database: Database, queue: WorkerQueue, store: AdapterStore
) -> FastAPI:
    # FastAPIOffline serves Swagger UI's files from its package: /docs works without internet
    app: FastAPI = FastAPIOffline(
        title="FinLoRA service",
        version="0.1.0",
        description=DESCRIPTION,
        lifespan=beside_requests,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy with TLS it would lead away from it
    )
    app.state.settings = settings
    app.state.database = database
    app.state.looks = Looks(database)
    app.state.queue = queue
    app.state.hub = Hub(database)
    app.state.store = store
    app.state.datasets = DatasetChecker()
    app.state.pepper = load_pepper(settings)
    app.state.doorman = Doorman(database, app.state.pepper, Quota.of(settings))
    app.state.request_limit = RequestLimit.of(settings)
    app.add_middleware(ShowLimits)
    app.add_middleware(Edge, hosts=Hosts((settings.host, *settings.allowed_hosts)))
    install_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    add_swagger_ui(app)
    openai.answer_below_v1(app)
    complete_document(app)
    return app
