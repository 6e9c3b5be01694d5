"""What the API's process does beside answering requests, from its start to its end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from api.stopping import calling_on_stop
from finlora_core.adapters.scrub import Scrubber
from finlora_core.audit.chain import Sealer
from finlora_core.audit.kept import kept_file
from finlora_core.runs.reconcile import Reconciler, reconcile
from finlora_core.runs.sweep import Sweeper
from finlora_core.webhooks.delivery import Deliverer

DELIVER_EVERY = 1.0
"""Seconds between looks at the outbox."""


@asynccontextmanager
async def beside_requests(app: FastAPI) -> AsyncIterator[None]:
    """With what `create_app` has put into the application's state."""
    state = app.state
    duties = (
        partial(reconcile, state.database, state.queue, state.settings),
        Sweeper(state.database, state.store, state.settings),
        Scrubber(state.database, state.store, state.settings),
        Sealer(state.database, state.pepper, kept_file(state.settings)),
    )
    reconciler = Reconciler(duties, every=state.settings.reconcile_seconds)
    reconciler.start()
    deliverer = Deliverer(state.database, state.pepper, state.settings.webhook_networks)
    postman = Reconciler([deliverer], every=DELIVER_EVERY)
    postman.start()
    with calling_on_stop(state.hub.close):
        yield
    state.hub.close()
    reconciler.stop()
    postman.stop()
    if state.request_limit is not None:
        await state.request_limit.close()
