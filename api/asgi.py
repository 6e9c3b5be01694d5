"""What `api.server` serves. The one place of the API that reads settings."""

from api.main import create_app
from api.queue import CeleryQueue
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database
from finlora_core.settings import load_settings

settings = load_settings()
app = create_app(
    settings=settings,
    database=Database.connect(settings.database),
    queue=CeleryQueue(settings.broker),
    store=AdapterStore(settings.adapters),
)
