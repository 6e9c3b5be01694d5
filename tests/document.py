"""docs/openapi.json: the API's contract, kept so that a change of it shows in review.

python -m tests.document        writes it anew (`make openapi`)
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from api.main import create_app
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database
from finlora_core.settings import load_settings
from tests.support import ListQueue

SNAPSHOT = Path(__file__).parent.parent / "docs" / "openapi.json"

Document = dict[str, Any]


def document() -> Document:
    """What GET /openapi.json answers."""
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings(home=home)
        database = Database.connect(settings.database)
        app = create_app(
            settings=settings,
            database=database,
            queue=ListQueue(),
            store=AdapterStore(settings.adapters),
        )
        database.close()
        return app.openapi()


def as_text(document: Document) -> str:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(as_text(document()))
