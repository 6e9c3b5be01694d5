"""`finlora keys`: on the database, for who may reach that."""

import httpx

from finlora_core.access.first_key import key_file
from finlora_core.settings import Settings
from tests.cli.conftest import Finlora
from tests.support import bearer


def test_a_key_is_made_listed_and_revoked(finlora: Finlora, url: str) -> None:
    made = finlora("keys", "create", "ci", "--owner", "ann", "--scope", "runs:read")
    assert made.returncode == 0, made.stderr
    first, key, *_ = made.stdout.splitlines()
    key_id = first.split(":")[0]
    assert httpx.get(f"{url}/runs", headers=bearer(key)).status_code == 200
    listed = finlora("keys", "list").stdout
    assert f"{key_id}  ci" in listed
    assert key not in listed
    assert finlora("keys", "revoke", key_id).returncode == 0
    assert "revoked" in finlora("keys", "list").stdout


def test_a_key_has_quotas(finlora: Finlora, url: str) -> None:
    sizes = ("--max-stored-bytes", "10GB", "--gpu-hours-per-day", "2.5", "--max-queued-runs", "7")
    assert finlora("keys", "create", "ci", "--owner", "ann", *sizes).returncode == 0
    admin = finlora("keys", "create", "root", "--scope", "admin").stdout.splitlines()[1]
    rows = httpx.get(f"{url}/keys", headers=bearer(admin)).json()["data"]
    (quota,) = [row["quota"] for row in rows if row["owner"] == "ann"]
    assert list(quota.values()) == [7, 10_000_000_000, 2.5]
    refused = finlora("keys", "create", "ci", "--max-stored-bytes", "much")
    assert (refused.returncode, "'much' is no size" in refused.stderr) == (1, True)


def test_a_name_that_cannot_be_an_owners_is_refused(finlora: Finlora) -> None:
    refused = finlora("keys", "create", "ci", "--owner", "../x")
    assert refused.returncode == 1
    assert "must be letters, digits" in refused.stderr


def test_without_a_key_the_command_says_what_to_do(finlora: Finlora) -> None:
    refused = finlora("status", FINLORA_API_KEY="")
    assert refused.returncode == 1
    assert "unauthorized: " in refused.stderr
    assert "FINLORA_API_KEY" in refused.stderr


def test_the_homes_own_key_goes_to_the_homes_own_service_only(
    finlora: Finlora, settings: Settings, key: str, url: str
) -> None:
    key_file(settings).write_text(f"{key}\n")
    port = url.rsplit(":", 1)[1]
    here = {"FINLORA_API_KEY": "", "FINLORA_PORT": port}
    assert finlora("status", **here, FINLORA_URL="").returncode == 0
    assert finlora("status", **here).returncode == 0
    elsewhere = finlora("status", FINLORA_API_KEY="", FINLORA_PORT="1")
    assert elsewhere.returncode == 1
