"""What FinLoRA's script renders against what this service renders: `make parity FINLORA=FOLDER`.

FOLDER holds FinLoRA's `finetune_configs.json` and `golden_finetune_configs.json`, what its own
script makes of each, and some of its datasets. Each config is posted as it stands to a service
whose dataset root is a FinLoRA checkout (a dataset that FOLDER lacks has two rows there), and
`GET /runs/{run_id}/config.yaml` is compared key by key; a difference is allowed only where the
table in docs/finlora.md names the key. The last line is JSON; the exit status is 0 when
nothing else differs, and each row of the table is needed by some config.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from fastapi.testclient import TestClient

from api.main import create_app
from finlora_core.access.first_key import make_first_key, read_key
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.migrate import migrate
from finlora_core.db.session import Database
from finlora_core.settings import load_settings

TABLE = Path(__file__).parent.parent / "docs" / "finlora.md"
TWO_ROWS = '{"context": "Profit rose. ", "target": "positive"}\n' * 2
Rendered = Mapping[str, Any]


def allowed_keys(table: str) -> set[str]:
    """The keys in the first column of the document's first table; `bnb_4bit_*` stands for all."""
    rows = re.findall(r"^\| (`[^|]+?) \|", table, re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([\w.*\[\]]+)`", row)}


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """`datasets[0].type.format` and its value, for every value that is no list or object.

    Null is left out: Axolotl takes a key that is not there for that.
    """
    if isinstance(value, dict):
        parts = {f"{key}.{name}".lstrip("."): part for name, part in value.items()}
    elif isinstance(value, list):
        parts = {f"{key}[{place}]": part for place, part in enumerate(value)}
    else:
        return {} if value is None else {key: value}
    return {name: leaf for path, part in parts.items() for name, leaf in flat(part, path).items()}


def differences(golden: Rendered, ours: Rendered) -> set[str]:
    return {key for key in golden.keys() | ours.keys() if golden.get(key) != ours.get(key)}


def render_as_posted(client: TestClient, name: str, config: Mapping[str, Any]) -> Rendered:
    """As on a GPU, for a model that is not at hand."""
    posted = client.post("/runs", json={"name": name, **config})
    if posted.status_code != 201:
        raise SystemExit(f"{name}: {posted.status_code} {posted.text}")
    rendered: Rendered = yaml.safe_load(
        client.get(f"{posted.headers['Location']}/config.yaml").text
    )
    return rendered


@contextmanager
def serving(configs: Mapping[str, Any], folder: Path) -> Iterator[TestClient]:
    """The API over a new database and a FinLoRA checkout that has every dataset."""
    with TemporaryDirectory(prefix="finlora-parity-") as temporary:
        checkout = Path(temporary, "FinLoRA")
        (checkout / "lora").mkdir(parents=True)
        for written in {config["dataset_path"] for config in configs.values()}:
            target, given = checkout / "lora" / written, folder / Path(written).name
            target.resolve().parent.mkdir(parents=True, exist_ok=True)
            target.write_text(given.read_text() if given.is_file() else TWO_ROWS)
        settings = load_settings(home=Path(temporary, "home"), dataset_roots=str(checkout))
        settings.home.mkdir()
        database = Database.connect(settings.database)
        migrate(database)
        make_first_key(database, settings)
        store = AdapterStore(settings.adapters)
        app = create_app(settings=settings, database=database, queue=NoWorkers(), store=store)
        headers = {"Authorization": f"Bearer {read_key(settings)}"}
        with TestClient(app, base_url="http://127.0.0.1", headers=headers) as client:
            yield client
        database.close()


class NoWorkers:
    """A broker that is away: runs are accepted all the same."""

    is_full = False

    def offer(self, run_id: str) -> bool:
        return False

    def count_workers(self) -> int | None:
        return None


def explained_by(key: str, allowed: set[str]) -> str | None:
    patterns = {row: re.escape(row).replace(r"\*", ".*") + r"(\[.*)?" for row in allowed}
    return next((one for one, regex in patterns.items() if re.fullmatch(regex, key)), None)


def main() -> int:
    folder = Path(sys.argv[1])
    configs = json.loads((folder / "finetune_configs.json").read_text())
    golden = json.loads((folder / "golden_finetune_configs.json").read_text())
    allowed = allowed_keys(TABLE.read_text())
    compared, used, unexplained = 0, Counter[str](), []
    with serving(configs, folder) as client:
        rendered = {name: render_as_posted(client, name, it) for name, it in configs.items()}
    for name, found in rendered.items():
        theirs, ours = flat(golden[name]), flat(found)
        compared += len(theirs.keys() | ours.keys())
        for key in differences(theirs, ours):
            row = explained_by(key, allowed)
            used[row or key] += 1
            unexplained += [] if row else [f"{name}: {key}"]
    for line in unexplained:
        print(f"  not in the table: {line}")
    figures = {
        "configs": len(configs),
        "keys_compared": compared,
        "differences": dict(used.most_common()),
        "unexplained": len(unexplained),
        "rows_without_use": sorted(allowed - used.keys()),
    }
    print(json.dumps(figures))
    return 1 if unexplained or figures["rows_without_use"] else 0


if __name__ == "__main__":
    sys.exit(main())
