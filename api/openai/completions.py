"""Asking a model: the playground, in OpenAI's words."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.background import BackgroundTask

from api.accept import STREAM
from api.access import requires
from api.deps import DatabaseDep, SettingsDep, StoreDep
from api.errors import status_of
from api.openai.completion import (
    ChatCompletion,
    ChatWording,
    TextCompletion,
    TextWording,
    Usage,
)
from api.openai.completion_request import (
    ChatRequest,
    CompletionRequest,
    Sampling,
    to_chat_question,
    to_question,
)
from api.openai.errors import responses, translate
from api.openai.served import find_served
from api.playground import ask
from api.strict import StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.errors import FinLoRAError
from finlora_core.playground import Ended, Piece, Question, Started, Told
from finlora_core.settings import Settings

router = APIRouter(
    prefix="/v1",
    tags=["openai: playground"],
    responses=responses(400, 401, 403, 404, 410, 413, 415, 429, 503),
    route_class=StrictRoute,
)

Asker = Annotated[Caller, requires(Scope.ADAPTERS_READ)]

DONE = format_sse_event(data_str="[DONE]")


def streamed(example: str) -> dict[int | str, dict[str, Any]]:
    """For a route's OpenAPI entry: what its answer is with `stream`."""
    described = {
        "schema": {"type": "string", "description": "With `stream`: chunks, then `[DONE]`."},
        "example": f"data: {example}\n\ndata: [DONE]\n\n",
    }
    return {200: {"content": {STREAM: described}}}


@router.post(
    "/chat/completions",
    operation_id="openai_create_chat_completion",
    response_model=ChatCompletion,
    responses=streamed('{"object": "chat.completion.chunk", …}'),
)
async def create_chat_completion(
    body: ChatRequest,
    request: Request,
    caller: Asker,
    db: DatabaseDep,
    settings: SettingsDep,
    store: StoreDep,
) -> Response | BaseModel:
    """What an adapter of yours, or a base model, says next. To try it out: one answer at a time.

    An adapter gets the prompt in the form of the rows that it was trained on.
    """
    served = await run_in_threadpool(find_served, db, settings, store, caller.owner, body.model)
    question = to_chat_question(body, served)
    return await _answer(request, settings, body, question, ChatWording(body.model))


@router.post(
    "/completions",
    operation_id="openai_create_completion",
    response_model=TextCompletion,
    responses=streamed('{"object": "text_completion", …}'),
)
async def create_completion(
    body: CompletionRequest,
    request: Request,
    caller: Asker,
    db: DatabaseDep,
    settings: SettingsDep,
    store: StoreDep,
) -> Response | BaseModel:
    """How a text goes on. The model gets it as it is, in no form."""
    served = await run_in_threadpool(find_served, db, settings, store, caller.owner, body.model)
    question = to_question(body, served)
    return await _answer(request, settings, body, question, TextWording(body.model))


async def _answer(
    request: Request, settings: Settings, body: Sampling, question: Question, wording: TextWording
) -> Response | BaseModel:
    """Begins once the model is in memory: until then what fails has a status of its own."""
    answer = ask(settings.playground, question)
    started = await anext(answer)
    assert isinstance(started, Started)  # noqa: S101  # its order of things
    if body.stream:
        return StreamingResponse(
            _events(answer, started, wording, shows_usage=body.shows_usage),
            media_type=STREAM,
            background=BackgroundTask(answer.aclose),  # run too when the client has gone
        )
    return await _whole(request, answer, started, wording)


async def _whole(
    request: Request, answer: AsyncGenerator[Told], started: Started, wording: TextWording
) -> BaseModel:
    texts: list[str] = []
    ended = Ended(finish_reason="stop", completion_tokens=0)
    async with aclosing(answer):
        async for told in answer:
            if isinstance(told, Piece):
                texts.append(told.text)
            elif isinstance(told, Ended):
                ended = told
            if await request.is_disconnected():
                break  # and nobody reads what is answered
    return wording.whole("".join(texts), ended.finish_reason, _usage(started, ended))


async def _events(
    answer: AsyncIterator[Told], started: Started, wording: TextWording, *, shows_usage: bool
) -> AsyncIterator[bytes]:
    try:
        if (first := wording.first()) is not None:
            yield _event(first)
        async for told in answer:
            if isinstance(told, Piece):
                yield _event(wording.piece(told.text))
            elif isinstance(told, Ended):
                yield _event(wording.end(told.finish_reason))
                if shows_usage:
                    yield _event(wording.usage(_usage(started, told)))
        yield DONE
    except FinLoRAError as error:  # the status is out: the clients raise what stands here
        yield _event(_as_error(error))


def _usage(started: Started, ended: Ended) -> Usage:
    return Usage(
        prompt_tokens=started.prompt_tokens,
        completion_tokens=ended.completion_tokens,
        total_tokens=started.prompt_tokens + ended.completion_tokens,
    )


def _as_error(error: FinLoRAError) -> dict[str, Any]:
    problem = {
        "status": int(status_of(type(error))),
        "code": error.code,
        "detail": str(error),
        "errors": [],
    }
    return translate(problem)[1].model_dump()


def _event(content: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(content, ensure_ascii=False))
