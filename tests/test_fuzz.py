"""Whatever is made up from the document gets an answer that the document allows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REQUESTS = 2000


@pytest.mark.timeout(600)
def test_no_request_made_up_from_the_document_breaks_the_api_or_its_word() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--requests", str(REQUESTS), "--examples", "15"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["requests"] >= REQUESTS
    assert summary["answers_500_or_above"] == 0
    # a service that refuses everything would pass, too
    assert {"200", "201", "404", "422"} <= summary["statuses"].keys()
