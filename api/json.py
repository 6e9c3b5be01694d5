"""Answers that are JSON, for the routes that are asked for most."""

from collections.abc import Mapping

from fastapi import Response
from pydantic import BaseModel


def as_json(
    answer: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """What FastAPI makes of a returned model, without validating it again in another thread.

    The route says `response_model`, so that the OpenAPI document stays the same.
    """
    body = answer.__pydantic_serializer__.to_json(answer)
    return Response(body, status, headers, media_type="application/json")
