"""`finlora audit`: on the database, for who may reach that."""

from sqlalchemy import text

from finlora_core.access.pepper import load_pepper
from finlora_core.audit.chain import Sealer
from finlora_core.audit.kept import kept_file
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.cli.conftest import Finlora


def test_the_log_is_listed_verified_and_found_damaged(
    finlora: Finlora, settings: Settings, url: str
) -> None:
    for name in ("one", "two"):
        assert finlora("keys", "create", name).returncode == 0
    database = Database.connect(settings.database)
    Sealer(database, load_pepper(settings), kept_file(settings))()
    listed = finlora("audit", "list", "--action", "key.created").stdout
    assert listed.count("operator") == 2
    whole = finlora("audit", "verify")
    assert whole.returncode == 0, whole.stderr
    kept = whole.stdout.split()[-1]
    assert finlora("audit", "verify", "--known", kept).returncode == 0
    with database.engine.connect() as connection:
        connection.execute(text("DROP TRIGGER audit_log_no_update"))
        connection.execute(text("UPDATE audit_log SET owner = 'ben' WHERE number = 1"))
        connection.commit()
    database.close()
    damaged = finlora("audit", "verify")
    assert damaged.returncode == 1
    assert "audit_damaged: entry 1 (id 1) was edited" in damaged.stderr
    refused = finlora("audit", "verify", "--known", "much")
    assert "is not NUMBER:SEAL" in refused.stderr
