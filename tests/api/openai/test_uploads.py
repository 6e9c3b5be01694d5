"""A file in parts."""

from pathlib import Path

from fastapi.testclient import TestClient
from httpx import Response

from finlora_core.settings import Settings
from tests.api.openai.conftest import error_of


def test_parts_that_are_not_the_file_are_refused_and_can_be_sent_again(
    client: TestClient, settings: Settings
) -> None:
    content = b'{"context": "a", "target": "b"}\n' * 3
    announced = {
        "bytes": len(content), "filename": "x.jsonl", "mime_type": "text/jsonl",
        "purpose": "fine-tune",
    }  # fmt: skip
    url = f"/v1/uploads/{client.post('/v1/uploads', json=announced).json()['id']}"
    parts = [
        client.post(f"{url}/parts", files={"data": ("part", piece)}).json()["id"]
        for piece in (content[:10], content[10:])
    ]

    def complete(ids: list[str], **keys: str) -> Response:
        return client.post(f"{url}/complete", json={"part_ids": ids, **keys})

    for ids, keys, param in (
        (parts[:1], {}, "part_ids"),
        ([*parts, parts[0]], {}, None),
        ([parts[0], "part_" + "0" * 20], {}, "part_ids"),
        ([parts[0], "../../x"], {}, "part_ids"),
        (parts[::-1], {}, "part_ids"),
        (parts, {"md5": "0" * 32}, "md5"),
    ):
        response = complete(ids, **keys)
        assert response.status_code in (400, 413), response.text
        assert error_of(response)["param"] == param
    assert client.get("/v1/files").json()["data"] == []
    done = complete(parts).json()
    assert (done["status"], done["file"]["bytes"]) == ("completed", len(content))
    left = [path for path in settings.uploads.rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".jsonl"]
    assert Path(left[0]).read_bytes() == content
    assert client.post(f"{url}/cancel").status_code == 409


def test_more_parts_than_a_file_can_need_are_refused(client: TestClient) -> None:
    announced = {"bytes": 10, "filename": "x", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    url = f"/v1/uploads/{client.post('/v1/uploads', json=announced).json()['id']}/parts"
    answers = [client.post(url, files={"data": ("p", b"x" * 9)}).status_code for _ in range(4)]
    assert answers == [200, 200, 413, 413]
