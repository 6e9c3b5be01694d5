"""The OpenAPI document is complete, true to its snapshot, and enough to generate a client from."""

import difflib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator

from api.document import UNEXPLAINED
from tests.document import SNAPSHOT, as_text, document

PROBLEM = "application/problem+json"


class Route(NamedTuple):
    name: str
    path: str
    operation: dict[str, Any]

    @property
    def is_openai(self) -> bool:
        """Those have another shape of errors, and answer 400 where ours answer 422."""
        return self.path.startswith("/v1/")

    @property
    def statuses(self) -> set[str]:
        return set(self.operation["responses"])

    def headers(self, status: str) -> set[str]:
        return set(self.operation["responses"].get(status, {}).get("headers", {}))


def routes() -> Iterator[Route]:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield Route(f"{method.upper()} {path}", path, operation)


ROUTES = list(routes())
each_route = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)


def test_the_document_is_the_one_in_the_repository() -> None:
    kept, now = SNAPSHOT.read_text(), as_text(document())
    changed = difflib.unified_diff(
        kept.splitlines(), now.splitlines(), "docs/openapi.json", "the application", lineterm=""
    )
    assert kept == now, "\n".join(["`make openapi` accepts this:", *changed])


def test_operation_ids_are_unique() -> None:
    ids = [route.operation["operationId"] for route in ROUTES]
    assert len(set(ids)) == len(ids)


@each_route
def test_a_route_says_what_it_is(route: Route) -> None:
    operation = route.operation
    assert operation["operationId"].isidentifier()
    assert len(operation["tags"]) == 1
    assert operation["summary"]
    assert operation["description"]
    for parameter in operation.get("parameters", []):
        assert parameter.get("description"), parameter["name"]


@each_route
def test_a_route_lists_the_errors_that_it_answers(route: Route) -> None:
    if route.operation["tags"] == ["health"]:
        return  # takes nothing, and its 503 is an answer
    expected = {"503", "401", "403"}
    assert route.operation["security"]
    if route.operation.get("parameters") or "requestBody" in route.operation:
        expected |= {"400" if route.is_openai else "422"}
    if "requestBody" in route.operation:
        expected |= {"400"}
    if "{" in route.path:
        expected |= {"404"}
    assert expected <= route.statuses
    for status, response in route.operation["responses"].items():
        if int(status) >= 400 and route.is_openai:
            assert response["content"]["application/json"]["example"]["error"]["message"]
        elif int(status) >= 400:
            assert response["content"].keys() == {PROBLEM}, status
            assert response["content"][PROBLEM]["example"]["status"] == int(status)


@each_route
def test_a_route_shows_examples(route: Route) -> None:
    for status, response in route.operation["responses"].items():
        for kind, content in response.get("content", {}).items():
            assert "example" in content or "examples" in content, f"{status} {kind}"
    for kind, content in route.operation.get("requestBody", {}).get("content", {}).items():
        assert "example" in content or "examples" in content, kind


def test_no_example_is_missing_a_text() -> None:
    """Where this fails: give the field `examples`, or its name a text in api/document.py."""
    lines = as_text(document()).splitlines()
    assert [line.strip() for line in lines if UNEXPLAINED in line] == []


@each_route
def test_an_example_is_what_its_schema_allows(route: Route) -> None:
    whole = document()
    for content in contents(route.operation):
        if content.keys() >= {"schema", "example"} and not isinstance(content["example"], str):
            schema = {**content["schema"], "components": whole["components"]}
            Draft202012Validator(schema).validate(content["example"])


def contents(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in (operation.get("requestBody", {}), *operation["responses"].values()):
        yield from part.get("content", {}).values()


@each_route
def test_a_route_describes_the_headers_that_matter(route: Route) -> None:
    if "201" in route.statuses:
        assert route.headers("201") & {"Location", "Cache-Control"}
    if "206" in route.statuses:
        assert {"Content-Range", "ETag"} <= route.headers("206")
        assert "ETag" in route.headers("200")
        assert "ETag" in route.headers("304")
        assert "Content-Range" in route.headers("416")
    if "503" in route.statuses and route.operation["tags"] != ["health"]:
        assert "Retry-After" in route.headers("503")
