"""What bad input gets, class by class: nothing is stored, and the server goes on.

What a client library would clean up before it is sent is in test_raw_requests.py. What needs a
history is tested with its subject: a corrupt adapter and ranges in test_adapters.py and
test_ranges.py, a full disk and a broken connection in test_datasets.py, a database that is down
and moves that a run's status forbids in test_runs.py, keys sent twice in test_idempotency.py, API
keys and other owners in test_access.py.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from api.strict import MAX_BODY
from finlora_core.settings import Settings
from tests.support import BASE_MODEL, ListQueue

JSON = {"Content-Type": "application/json"}
RUN = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl"}
HUGE = "9" * 5000
ROW = b'{"context": "Profit rose.", "target": "positive"}\n'
NOT_UTF8 = "?name=%FF"


@dataclass(frozen=True)
class Case:
    """A request, and what it gets. `key` is what the first of `errors` names."""

    name: str
    method: str
    path: str
    status: int
    code: str
    key: str | None = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def ask(self, client: TestClient) -> Response:
        return client.request(self.method, self.path, content=self.body, headers=self.headers)

    def complaints(self, answer: Response) -> list[str]:
        """What is wrong with the answer."""
        if answer.headers["content-type"] != "application/problem+json":
            return [f"{self.name}: {answer.status_code} {answer.text[:200]}"]
        problem = answer.json()
        keys = [each["key"] for each in problem["errors"]]
        got = (answer.status_code, problem["code"], keys[0] if keys and self.key else None)
        wanted = (self.status, self.code, self.key)
        return [] if got == wanted else [f"{self.name}: {got}, not {wanted}: {problem['detail']}"]


def run(name: str, more: str, key: str, code: str = "invalid_request") -> Case:
    """POST /runs with these JSON members beside the two that it needs."""
    body = f'{{"base_model": "{BASE_MODEL}", "dataset_path": "train.jsonl", {more}}}'
    return Case(name, "POST", "/runs", 422, code, key, body.encode("utf-8", "surrogatepass"), JSON)


def value(name: str, key: str, of: Any) -> Case:
    body = json.dumps({**RUN, key: of}).encode()
    return Case(name, "POST", "/runs", 422, "invalid_request", key, body, JSON)


def malformed(name: str, body: bytes, code: str = "invalid_json") -> Case:
    return Case(name, "POST", "/runs", 400, code, None, body, JSON)


def media(name: str, headers: Mapping[str, str], body: bytes = b"{}") -> Case:
    return Case(name, "POST", "/runs", 415, "unsupported_media_type", None, body, headers)


def query(name: str, path: str, key: str, code: str = "invalid_request") -> Case:
    return Case(name, "GET", path, 422, code, key)


def missing(name: str, path: str) -> Case:
    return Case(name, "GET", path, 404, "not_found")


def dataset(name: str, path: str, code: str = "dataset_not_found") -> Case:
    body = json.dumps({**RUN, "dataset_path": path}).encode()
    return Case(name, "POST", "/runs", 422, code, "dataset_path", body, JSON)


def upload(name: str, rows: bytes, status: int, code: str, *, file: str = "train.jsonl") -> Case:
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{file}"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    body = head.encode() + rows + b"\r\n--x--\r\n"
    return Case(name, "POST", "/datasets", status, code, None, body, headers)


def host(name: str, value: str) -> Case:
    return Case(name, "GET", "/healthz", 400, "invalid_host", None, b"", {"Host": value})


TEXT = json.dumps(RUN)

CLASSES: Mapping[str, Sequence[Case]] = {
    "malformed JSON, wrong encodings, truncated": [
        malformed("nothing", b""),
        malformed("a word", b"hello"),
        malformed("half an object", TEXT[:20].encode()),
        malformed("an open string", b'{"base_model": "a'),
        malformed("a trailing comma", b'{"base_model": "a",}'),
        malformed("two values", b"{}{}"),
        malformed("single quotes", b"{'base_model': 'a'}"),
        malformed("a comment", b'{"base_model": "a" /* b */}'),
        malformed("a raw line break in a string", b'{"base_model": "a\nb"}'),
        malformed("a raw NUL in a string", b'{"base_model": "a\0b"}'),
        malformed("a raw NUL behind the object", b"{}\0"),
        malformed("a bad escape", rb'{"base_model": "\x41"}'),
        malformed("a leading zero", b'{"lora_r": 08}'),
        malformed("a hexadecimal number", b'{"lora_r": 0x8}'),
        malformed("a plus sign", b'{"lora_r": +8}'),
        malformed("another infinity", b'{"learning_rate": inf}'),
        malformed("a form", b"base_model=a&dataset_path=b"),
        malformed("YAML", b"base_model: a\ndataset_path: b\n"),
        malformed("UTF-8 with a byte order mark", b"\xef\xbb\xbf" + TEXT.encode()),
        malformed("UTF-16", TEXT.encode("utf-16")),
        malformed("UTF-16 without a mark", TEXT.encode("utf-16-le")),
        malformed("UTF-32", TEXT.encode("utf-32")),
        malformed("Latin-1", '{"name": "é"}'.encode("latin-1")),
        malformed("an overlong slash", b'{"name": "\xc0\xaf"}'),
        malformed("half a surrogate pair as bytes", b'{"name": "\xed\xa0\x80"}'),
        malformed("33 levels", b'{"name": ' + b"[" * 33 + b"]" * 33 + b"}"),
        malformed("100,000 levels", b"[" * 100_000),
        malformed("100,000 levels of objects", b'{"a":' * 100_000),
        Case("JSON for a file", "POST", "/datasets", 400, "malformed_body", None, b"", JSON),
        Case(
            "an upload without its end", "POST", "/datasets", 400, "malformed_body", None,
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + ROW * 2,
            {"Content-Type": "multipart/form-data; boundary=x"},
        ),
    ],
    "unknown key, out-of-range number, bool for int, NaN, surrogate, NUL": [
        run("an unknown key", '"lora_rank": 8', "lora_rank"),
        run("a key of Axolotl", '"trust_remote_code": true', "trust_remote_code"),
        run("plugins", '"plugins": ["os"]', "plugins"),
        run("a key with NUL", r'"lora\u0000": 8', "lora\N{REPLACEMENT CHARACTER}"),
        run("a key with half a pair", r'"\ud800": 8', "\N{REPLACEMENT CHARACTER}"),
        run("a key of 5,000 letters", f'"{"k" * 5000}": 8', "k" * 128 + "…"),
        run("a key twice", '"lora_r": 8, "lora_r": 16', "lora_r"),
        run("a key twice, the same", '"lora_r": 8, "lora_r": 8', "lora_r"),
        run("twice, once escaped", r'"lora_r": 8, "lora\u005fr": 8', "lora_r"),
        run("a key twice, deep inside", '"x": [{"a": 1, "a": 2}]', "a"),
        run("NaN", '"learning_rate": NaN', "learning_rate"),
        run("infinity", '"learning_rate": Infinity', "learning_rate"),
        run("minus infinity", '"learning_rate": -Infinity', "learning_rate"),
        run("1e999", '"learning_rate": 1e999', "learning_rate"),
        run("NaN in a list", '"lora_target_modules": ["q_proj", NaN]', "lora_target_modules.1"),
        run("NaN under an unknown key", '"a": {"b": NaN}', "a.b"),
        run("2**63", f'"max_steps": {2**63}', "max_steps"),
        run("-2**63 - 1", f'"max_steps": {-(2**63) - 1}', "max_steps"),
        run("5,000 digits", f'"max_steps": {HUGE}', "max_steps"),
        run("5,000 digits, negative", f'"seed": -{HUGE}', "seed"),
        run("an enormous time", '"time_limit_seconds": 1e300', "time_limit_seconds"),
        run("half a surrogate pair", r'"name": "\ud800"', "name"),
        run("the other half", r'"name": "a\udfff"', "name"),
        run("NUL", r'"name": "a\u0000b"', "name"),
        value("a control character", "dataset_path", "a\x1bb.jsonl"),
        value("a line break", "name", "a\n"),
        value("a letter of another script", "name", "\u0440an"),
        value("a direction mark", "dataset_path", "a\u202eb.jsonl"),
        value("a number that is a text", "lora_r", "8"),
        value("true for a number", "lora_r", True),
        value("false for a seed", "seed", False),
        value("a float for a rank", "lora_r", 8.5),
        value("a rank of 0", "lora_r", 0),
        value("a negative rank", "lora_r", -1),
        value("a rank of 1025", "lora_r", 1025),
        value("3 bits", "quant_bits", 3),
        value("true bits", "quant_bits", True),
        value("a learning rate of 0", "learning_rate", 0),
        value("a learning rate of 1", "learning_rate", 1),
        value("a null where none may be", "num_epochs", None),
        value("a list for a text", "base_model", [BASE_MODEL]),
        value("an object for a text", "dataset_path", {"path": "train.jsonl"}),
        value("an empty text", "dataset_path", ""),
        value("1,025 letters", "dataset_path", "a" * 1025),
        value("modules that are no list", "lora_target_modules", {"q_proj": 1}),
        value("a module twice", "lora_target_modules", ["q_proj", "q_proj"]),
        value("modules as a pattern", "lora_target_modules", ".*"),
        value("an unknown format", "prompt_format", "jinja"),
        value("a priority of 101", "priority", 101),
        value("a time of 0", "time_limit_seconds", 0),
        Case("a list", "POST", "/runs", 422, "invalid_request", "body", b"[]", JSON),
        Case("a text", "POST", "/runs", 422, "invalid_request", "body", b'"a"', JSON),
        Case("null", "POST", "/runs", 422, "invalid_request", "body", b"null", JSON),
        Case("NaN alone", "POST", "/runs", 422, "invalid_request", "body", b"NaN", JSON),
        Case("nothing in it", "POST", "/runs", 422, "invalid_request", "base_model", b"{}", JSON),
    ],
    "a query that cannot be meant": [
        query("an unknown parameter", "/runs?stats=queued", "stats"),
        query("one that another route has", "/runs?version=1", "version"),
        query("one of 500 letters", f"/runs?{'k' * 500}=1", "k" * 128 + "…"),
        query("NUL in its name", "/runs?na%00me=1", "na\N{REPLACEMENT CHARACTER}me"),
        query("a parameter twice", "/runs?limit=1&limit=2", "limit"),
        query("a limit like 1e3", "/runs?limit=1e3", "limit"),
        query("a limit of 0", "/runs?limit=0", "limit"),
        query("a negative limit", "/runs?limit=-1", "limit"),
        query("a limit past the highest", "/runs?limit=1001", "limit"),
        query("an enormous limit", f"/runs?limit={HUGE}", "limit"),
        query("an empty limit", "/runs?limit=", "limit"),
        query("a fraction", "/runs?limit=1.5", "limit"),
        query("digits of another script", "/runs?limit=%D9%A3%D9%A3%20", "limit"),
        query("an unknown status", "/runs?status=done", "status"),
        query("NUL in a value", "/runs?name=a%00", "name"),
        query("a value that is not UTF-8", f"/runs{NOT_UTF8}", "name"),
        query("half a pair in a value", "/runs?name=%ED%A0%80", "name"),
        query("an offset of 2**63", f"/runs/x/logs?offset={2**63}", "offset"),
        query("a negative cursor", "/runs/x/events?after=-1", "after"),
        query("a cursor of 2**63", f"/runs/x/events?after={2**63}", "after"),
        query("a version past 32 bits", "/adapters?name=a&version=4294967296", "version"),
        query("a cursor of nobody", "/runs?cursor=abc", "cursor", "invalid_cursor"),
        query("a cursor of smiles", "/runs?cursor=%F0%9F%98%80", "cursor", "invalid_cursor"),
        query("a cursor of rubbish", "/runs?cursor=AAAA", "cursor", "invalid_cursor"),
        query("a cursor without an id", "/runs?cursor=MjAyNi0wMS0wMQ", "cursor", "invalid_cursor"),
        query("a cursor of an adapter", "/adapters?cursor=e30", "cursor", "invalid_cursor"),
    ],
    "a path to nowhere": [
        missing("no such route", "/nothing"),
        missing("a slash too many", "/runs/"),
        missing("two slashes", "//runs"),
        missing("NUL", "/runs/%00"),
        missing("not UTF-8", "/runs/%FF"),
        missing("half a pair", "/runs/%ED%A0%80"),
        missing("no such run", "/runs/run_none"),
        missing("a run of 5,000 letters", f"/runs/{'x' * 5000}"),
        missing("a quote", "/runs/'%20OR%201=1--"),
        missing("a traversal", "/adapters/..%2f..%2fetc%2fpasswd"),
        missing("a traversal among files", "/adapters/x/files/..%2f..%2fetc%2fpasswd"),
        missing("a traversal of the documentation", "/static-offline-docs/..%2f..%2f__init__.py"),
        missing("an absolute path there", "/static-offline-docs/%2fetc%2fpasswd"),
        missing("a dataset by its path", "/datasets/%2fetc%2fpasswd"),
        missing("a model by its path", "/datasets/..%2ftrain.jsonl"),
        Case("PUT", "PUT", "/runs", 405, "method_not_allowed"),
        Case("TRACE", "TRACE", "/runs", 405, "method_not_allowed"),
        Case("a method of nobody", "BREW", "/healthz", 405, "method_not_allowed"),
        Case("a preflight", "OPTIONS", "/runs", 405, "method_not_allowed"),
        Case("DELETE of the list", "DELETE", "/runs", 405, "method_not_allowed"),
    ],
    "over a limit": [
        Case("a body of 1 MiB and 1", "POST", "/runs", 413, "body_too_large", None,
             b" " * (MAX_BODY + 1), JSON),
        Case("one of 8 MiB for a key", "POST", "/keys", 413, "body_too_large", None,
             b" " * (8 * MAX_BODY), JSON),
        Case("one where none is read but hashed", "POST", "/runs/x/retry", 413, "body_too_large",
             None, b" " * (MAX_BODY + 1), {"Idempotency-Key": "a"}),
        Case("an upload past its limit", "POST", "/datasets", 413, "upload_too_large", None,
             b" " * (3 * MAX_BODY), {"Content-Type": "multipart/form-data; boundary=x"}),
        Case("a long path", "GET", "/" + "x" * 9000, 414, "uri_too_long"),
        Case("a long query", "GET", "/runs?name=" + "x" * 9000, 414, "uri_too_long"),
        Case("a long key of idempotency", "POST", "/runs", 422, "invalid_request",
             "idempotency-key", TEXT.encode(), {**JSON, "Idempotency-Key": "x" * 256}),
    ],
    "not what is read here": [
        media("no type", {"Content-Type": ""}),
        media("text", {"Content-Type": "text/plain"}),
        media("a form", {"Content-Type": "application/x-www-form-urlencoded"}, b"a=b"),
        media("a multipart form", {"Content-Type": "multipart/form-data; boundary=x"}),
        media("JSON as text", {"Content-Type": "text/json"}),
        media("no type at all", {"Content-Type": "json"}),
        media("JSON lines", {"Content-Type": "application/jsonl"}),
        media("JSON in UTF-16", {"Content-Type": "application/json; charset=utf-16"}),
        media("gzip", {**JSON, "Content-Encoding": "gzip"}, b"\x1f\x8b\x08" + b"\0" * 100),
        media("deflate", {**JSON, "Content-Encoding": "deflate"}),
        media("two encodings", {**JSON, "Content-Encoding": "identity, br"}),
    ],
    "traversal, absolute path, NUL, URL as dataset": [
        dataset("a traversal", "../../etc/passwd"),
        dataset("a traversal inside", "a/../../../etc/passwd"),
        dataset("an absolute path", "/etc/passwd"),
        dataset("a home", "~/secrets.jsonl"),
        dataset("a URL", "https://example.com/a.jsonl"),
        dataset("a file URL", "file:///etc/passwd"),
        dataset("a bucket", "s3://bucket/a.jsonl"),
        dataset("a folder", "."),
        dataset("a device", "/dev/zero"),
        dataset("NUL", "train.jsonl\0", "invalid_request"),
        dataset("a variable", "$HOME/train.jsonl"),
        dataset("a dataset of nobody", "dataset_0123456789abcdef0123"),
        value("a base model by its path", "base_model", "/etc"),
        value("a base model above", "base_model", "../models"),
        value("a base model's URL", "base_model", "https://example.com/model"),
        value("a hidden folder", "base_model", "org/.git"),
        value("a name with a slash", "name", "a/b"),
        value("a name with a dot first", "name", ".ssh"),
        value("a name that climbs", "name", ".."),
        value("a name of 129 letters", "name", "a" * 129),
    ],
    "a dataset that cannot be trained on": [
        upload("nothing", b"", 422, "invalid_dataset"),
        upload("one row", ROW, 422, "invalid_dataset"),
        upload("a field is missing", ROW + b'{"context": "a"}\n', 422, "invalid_dataset"),
        upload("a number", ROW + b'{"context": 1, "target": "a"}\n', 422, "invalid_dataset"),
        upload("a list for a row", ROW + b"[]\n", 422, "invalid_dataset"),
        upload("not JSON", ROW + b"hello\n", 422, "invalid_dataset"),
        upload("not UTF-8", ROW + b'{"context": "\xff", "target": "a"}\n', 422, "invalid_dataset"),
        upload("half a pair", ROW + rb'{"context": "\ud800", "target": "a"}' + b"\n", 422,
               "invalid_dataset"),
    ],
    "a Host that is somebody else": [
        host("another name", "evil.example"),
        host("another name with our port", "evil.example:8000"),
        host("ours inside another", "localhost.evil.example"),
        host("ours behind another", "evil.localhost.example"),
        host("a user before ours", "evil@localhost"),
        host("a path behind ours", "localhost/evil"),
        host("two in one", "localhost, evil.example"),
        host("nothing", ""),
        host("a number that is no address", "2130706433"),
        host("spaces", "local host"),
    ],
    "no key, or a wrong one": [
        Case("no word", "GET", "/runs", 401, "unauthorized", None, b"", {"Authorization": ""}),
        Case("another scheme", "GET", "/runs", 401, "unauthorized", None, b"",
             {"Authorization": "Basic YTpi"}),
        Case("no key's form", "GET", "/runs", 401, "unauthorized", None, b"",
             {"Authorization": "Bearer hello"}),
        Case("an unknown key", "GET", "/runs", 401, "unauthorized", None, b"",
             {"Authorization": "Bearer finlora_aaaaaaaaaaaa_" + "b" * 49}),
        Case("a very long key", "GET", "/runs", 401, "unauthorized", None, b"",
             {"Authorization": "Bearer " + "x" * 10_000}),
        Case("no key, and a body that is not read", "POST", "/runs", 401, "unauthorized", None,
             b" " * (2 * MAX_BODY), {**JSON, "Authorization": ""}),
        Case("no key, and an unknown parameter", "GET", "/runs?wrong=1", 401, "unauthorized", None,
             b"", {"Authorization": ""}),
        Case("no key, and no JSON", "POST", "/runs", 401, "unauthorized", None, b"{",
             {**JSON, "Authorization": ""}),
        Case("no key, and an upload", "POST", "/datasets", 401, "unauthorized", None, ROW,
             {"Authorization": ""}),
    ],
}  # fmt: skip


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_upload_mib": 1})


@pytest.mark.parametrize("kind", CLASSES)
def test_bad_requests_get_an_answer_that_says_why_and_store_nothing(
    client: TestClient, queue: ListQueue, settings: Settings, kind: str
) -> None:
    complaints = list(chain(*(case.complaints(case.ask(client)) for case in CLASSES[kind])))
    assert complaints == []
    assert stored(client, settings) == []
    assert queue.offered == []
    answer = client.post("/runs", json=RUN)
    assert answer.status_code == 201


def test_there_are_over_a_hundred_and_each_has_a_name_of_its_own() -> None:
    names = [f"{kind}: {case.name}" for kind, cases in CLASSES.items() for case in cases]
    assert len(set(names)) == len(names) > 100


def test_a_body_without_a_length_is_cut_off_at_the_limit(client: TestClient) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b" " * (MAX_BODY // 8)

    answer = client.post("/runs", content=pieces(), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_the_largest_body_is_read(client: TestClient) -> None:
    body = TEXT.encode() + b" " * (MAX_BODY - len(TEXT))
    assert client.post("/runs", content=body, headers=JSON).status_code == 201


@pytest.mark.parametrize(
    "type",
    ["application/json", "Application/JSON; charset=UTF-8", "application/vnd.api+json"],
)
def test_json_by_other_names_is_json(client: TestClient, type: str) -> None:
    headers = {"Content-Type": type, "Content-Encoding": "identity"}
    assert client.post("/runs", content=TEXT, headers=headers).status_code == 201


def test_a_thousand_wrong_keys_are_not_all_told(client: TestClient) -> None:
    answer = client.post("/runs", json={f"wrong_{n}": n for n in range(10_000)})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20
    assert len(answer.content) < 32 * 1024


def test_every_route_refuses_a_parameter_that_it_does_not_know(client: TestClient) -> None:
    for method, path, _ in operations(client):
        answer = client.request(method, f"{path}?no_such_parameter=1")
        if answer.headers.get("content-type") == "application/problem+json":
            assert answer.json()["errors"][0]["key"] == "no_such_parameter", path
        else:
            assert answer.json()["error"]["param"] == "no_such_parameter", path


def test_every_route_that_takes_json_is_strict_with_it_and_says_so(client: TestClient) -> None:
    strict = 0
    for method, path, operation in operations(client):
        if "application/json" not in operation.get("requestBody", {}).get("content", {}):
            continue
        strict += 1
        assert {"400", "413", "415"} <= operation["responses"].keys(), path
        for body, headers, wanted in (
            (b'{"a": NaN}', JSON, "invalid_request"),
            (b"\xff", JSON, "invalid_json"),
            (b"{}", {"Content-Type": "text/plain"}, "unsupported_media_type"),
            (b" " * (MAX_BODY + 1), JSON, "body_too_large"),
        ):
            answer = client.request(method, path, content=body, headers=headers)
            problem = answer.json()
            assert problem.get("error", problem)["code"] == wanted, path
    assert strict >= 5


def operations(client: TestClient) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every route."""
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path.replace("{", "").replace("}", ""), operation


def stored(client: TestClient, settings: Settings) -> list[Any]:
    """All that anybody has made, on the disk and in the database."""
    listed = [
        row
        for path in ("/runs", "/datasets", "/adapters", "/webhooks", "/v1/files")
        for row in client.get(path).json()["data"]
    ]
    return listed + [file for file in settings.uploads.rglob("*") if file.is_file()]
