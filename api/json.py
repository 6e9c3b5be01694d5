"""Answers that are JSON: those of the routes that are asked for most, and JSON lines."""

from collections.abc import Mapping
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from api.errors import responses


class JSONLinesResponse(Response):
    media_type: str = "application/jsonl"


def jsonl_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's OpenAPI entry: JSON lines, or these errors."""
    content = {JSONLinesResponse.media_type: {"schema": {"type": "string"}}}
    return {**responses(*statuses), 200: {"content": content}}


def as_json(
    answer: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """What FastAPI makes of a returned model, without validating it again in another thread.

    The route says `response_model`, so that the OpenAPI document stays the same.
    """
    body = answer.__pydantic_serializer__.to_json(answer)
    return Response(body, status, headers, media_type="application/json")
