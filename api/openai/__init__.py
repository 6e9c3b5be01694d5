"""The OpenAI-compatible surface under /v1: translation only, the rules are the core's.

A module a resource; ids, lists and errors have one each. Point the unmodified `openai` package
at it with `base_url=http://…/v1` (docs/openai.md).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI

from api.openai import completions, files, jobs, models, uploads
from api.openai.errors import PREFIX, TranslateErrors

routers = (files.router, uploads.router, jobs.router, models.router, completions.router)


def answer_below_v1(app: FastAPI) -> None:
    """Also what no route answers, and what middlewares and the last resort answer."""
    app.openapi = partial(_without_422, app.openapi)  # type: ignore[method-assign]
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: TranslateErrors(build())  # type: ignore[method-assign]


def _without_422(generate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """FastAPI says of each route that it answers 422 in a shape of its own; these answer 400."""
    document = generate()
    for path, operations in document["paths"].items():
        if path.startswith(PREFIX):
            for operation in operations.values():
                operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document
