"""What FastAPI cannot know of the OpenAPI document: the shape of errors, headers, examples.

All of it follows from what a route declares, so that a new route needs nothing here. A text
that its name does not explain needs `examples` at its field: a test fails without.
"""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from api.errors import SCHEMAS, Problem
from api.openai.errors import translate

Schema = dict[str, Any]

PROBLEM = "application/problem+json"
OPENAI_ERROR = {"$ref": SCHEMAS.format(model="OpenAIError")}

HEADERS: Mapping[str, str] = {
    "Accept-Ranges": "`bytes`: `Range` works.",
    "Content-Range": "Which bytes of how many.",
    "ETag": "The SHA-256 in quotes; for `If-None-Match` and `If-Range`.",
    "RateLimit-Limit": "Requests that the key may send in a window.",
    "RateLimit-Remaining": "How many are left.",
    "RateLimit-Reset": "Seconds until there are more.",
    "Location": "Where the new one is.",
    "Retry-After": "Seconds to wait before trying again.",
    "WWW-Authenticate": "`Bearer`.",
}

OF_STATUS: Mapping[str, tuple[str, ...]] = {
    "201": ("Location",),
    "206": ("Accept-Ranges", "Content-Range", "ETag"),
    "304": ("ETag",),
    "401": ("WWW-Authenticate",),
    "416": ("Content-Range",),
    "429": ("Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"),
    "503": ("Retry-After",),
}

ERRORS: Mapping[str, tuple[str, str]] = {
    "400": ("invalid_json", "the body is not JSON: Expecting value"),
    "401": ("unauthorized", "an API key is needed: Authorization: Bearer finlora_…"),
    "403": ("forbidden", "this key lacks the scope runs:write"),
    "404": ("not_found", "there is no such thing"),
    "409": ("conflict", "it is in a state that does not allow this"),
    "410": ("corrupt", "a stored file is no longer what was published"),
    "413": ("body_too_large", "the body may have 1048576 bytes"),
    "415": ("unsupported_media_type", "send the body as JSON, Content-Type: application/json"),
    "416": ("range_not_satisfiable", "all of the range lies past the end"),
    "422": ("invalid_request", "lora_r: should be less than or equal to 1024"),
    "429": ("rate_limited", "too many requests; wait, then go on"),
    "503": ("database_unavailable", "The database does not answer; nothing was stored."),
    "507": ("insufficient_storage", "there is no room left for it"),
}

TEXTS: Mapping[str, str] = {
    "application/jsonl": '{"context": "Profit rose.", "target": "positive"}\n',
    "application/octet-stream": "(the file)",
    "application/x-tar": "(a tar archive)",
    "application/yaml": "base_model: /models/meta-llama/Llama-3.1-8B-Instruct\nadapter: lora\n",
    "text/event-stream": 'id: 7\ndata: {"step": 7}\n\n',
    "text/plain": "{'loss': 0.52, 'epoch': 1.0}\n",
}

UNEXPLAINED = "an example is missing:"

_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_RUN = "8f0c1d0c4a8b4e2f9d11"
_TUNED = "ft:meta-llama/Llama-3.1-8B-Instruct:local:sentiment"
STRINGS: Mapping[str, str] = {
    "AdapterDetail.id": f"adp_{_RUN}_1",
    "AdapterRead.id": f"adp_{_RUN}_1",
    "CheckpointObject.id": "ftckpt-8f0c1d0c4a8b4e2f9d11-120",
    "ComparisonRead.id": f"cmp_{_RUN}",
    "CompleteRequest.md5": "9e107d9d372bb6826bd81d3542a419d6",
    "DeliveryRead.id": f"evt_{_RUN}",
    "DatasetRead.id": f"dataset_{_RUN}",
    "EventObject.id": "ftevent-8f0c1d0c4a8b4e2f9d11-7",
    "EvaluationRead.id": f"eval_{_RUN}",
    "FileDeleted.id": f"file-{_RUN}",
    "FileObject.id": f"file-{_RUN}",
    "KeyMade.id": "4vHq8ZtR2mXa",
    "KeyRead.id": "4vHq8ZtR2mXa",
    "JobObject.id": f"ftjob-{_RUN}",
    "MergeRead.id": f"merge_{_RUN}",
    "ModelObject.id": "meta-llama/Llama-3.1-8B-Instruct",
    "PartObject.id": f"part_{_RUN}",
    "ResultRead.id": f"res_{_RUN}_001",
    "RunRead.id": f"run_{_RUN}",
    "WebhookMade.id": f"wh_{_RUN}",
    "WebhookRead.id": f"wh_{_RUN}",
    "UploadObject.id": f"upload_{_RUN}",
    "adapter_id": f"adp_{_RUN}_1",
    "base_model": "meta-llama/Llama-3.1-8B-Instruct",
    "code": "out_of_memory",
    "comparison_id": f"cmp_{_RUN}",
    "damage": "adapter_model.safetensors is not what was published",
    "data": TEXTS["application/jsonl"],
    "dataset_path": "../data/train/finlora_sentiment_train.jsonl",
    "dataset_id": f"dataset_{_RUN}",
    "error_code": "worker_lost",
    "evaluation_id": f"eval_{_RUN}",
    "file": TEXTS["application/jsonl"],
    "filename": "train.jsonl",
    "fine_tuned_model": f"{_TUNED}:{_RUN}_1",
    "fine_tuned_model_checkpoint": f"{_TUNED}:{_RUN}:ckpt-step-120",
    "fine_tuning_job_id": f"ftjob-{_RUN}",
    "first_id": f"file-{_RUN}",
    "hint": "Lower batch_size or sequence_len.",
    "KeyIssue.key": "lora_r",
    "key": "finlora_4vHq8ZtR2mXa_…",
    "last_id": f"file-{_RUN}",
    "log_tail": "torch.OutOfMemoryError",
    "merge_id": f"merge_{_RUN}",
    "message": "attempt 1 has started",
    "metadata": "what you like",
    "mime_type": "application/jsonl",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "name": "sentiment_llama_3_1_8b_8bits_r8",
    "next_cursor": "MjAyNi0wMS0wMQ",
    "organization_id": "local",
    "owned_by": "meta-llama",
    "owner": "local",
    "param": "training_file",
    "parent_id": f"run_{_RUN}",
    "part_ids": f"part_{_RUN}",
    "path": "adapter_model.safetensors",
    "result_files": f"file-{_RUN}-metrics",
    "role": "user",
    "run_id": f"run_{_RUN}",
    "sha256": _SHA256,
    "status": "ok",
    "suffix": "sentiment",
    "text": "Profit rose.",
    "training_file": f"file-{_RUN}",
    "upload_id": f"upload_{_RUN}",
    "validation_file": f"file-{_RUN}",
    "validation_dataset_path": "../data/test/sentiment.jsonl",
    "variant": "8bits_r8",
    "waiting_for": "a worker with 2 GPUs",
    "worker": "gpu-1:4711:5e2a",
}


def complete_document(app: FastAPI) -> None:
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document["components"]["schemas"]
            problem = Problem.model_json_schema(ref_template=SCHEMAS)
            schemas |= {**problem.pop("$defs"), "Problem": problem}
            for operation in _operations(document):
                _complete(operation, schemas)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(document: Schema) -> Iterator[Schema]:
    for methods in document["paths"].values():
        yield from methods.values()


def _complete(operation: Schema, schemas: Schema) -> None:
    responses = operation["responses"]
    for parameter in operation.get("parameters", []):
        parameter["schema"] = _without_null(parameter["schema"])
    for status, response in responses.items():
        _describe_headers(response, _headers(status, response, partial="206" in responses))
        for media_type, content in response.get("content", {}).items():
            if "examples" not in content:
                content.setdefault("example", _answer(status, media_type, content, schemas))
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if "examples" not in content:
            content.setdefault("example", example_of(content["schema"], schemas))


def _without_null(schema: Schema) -> Schema:
    """A parameter is sent or not; there is no way to send null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**kinds[0], **rest} if len(kinds) == 1 else schema


def _headers(status: str, response: Schema, *, partial: bool) -> tuple[str, ...]:
    if status == "200" and partial:
        return ("Accept-Ranges", "ETag")
    if status == "503" and "application/json" in response["content"]:
        schema = response["content"]["application/json"]["schema"]
        return OF_STATUS[status] if schema == OPENAI_ERROR else ()  # /readyz answers so
    return OF_STATUS.get(status, ())


def _describe_headers(response: Schema, names: tuple[str, ...]) -> None:
    if "headers" in response:
        return  # the route knows better
    for name in names:
        header = {"description": HEADERS[name], "schema": {"type": "string"}}
        response.setdefault("headers", {})[name] = header


def _answer(status: str, media_type: str, content: Schema, schemas: Schema) -> Any:
    if content.get("schema") == OPENAI_ERROR:
        problem = _problem("422" if status == "400" else status)
        return translate(problem)[1].model_dump()
    if media_type == PROBLEM:
        return _problem(status)
    return TEXTS.get(media_type) or example_of(content["schema"], schemas)


def _problem(status: str) -> dict[str, Any]:
    code, detail = ERRORS[status]
    title = HTTPStatus(int(status)).phrase
    shape = Problem(title=title, status=int(status), code=code, detail=detail, errors=[])
    return shape.model_dump()


def example_of(schema: Schema, schemas: Schema, name: str = "") -> Any:
    """A value that `schema` allows, made of what its parts say.

    `name` is the property's, behind its model's: `RunRead.id`.
    """
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas, name)
    for said in (schema.get("examples"), schema.get("enum"), [schema.get("const")]):
        if said and said[0] is not None:
            return said[0]
    if schema.get("default") is not None:
        return schema["default"]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], schemas, name)
    return _of_type(schema, schemas, name)


def _of_type(schema: Schema, schemas: Schema, name: str) -> Any:
    match schema.get("type"):
        case "object" if "properties" in schema:
            model = schema.get("title", "")
            return {
                key: example_of(inner, schemas, f"{model}.{key}")
                for key, inner in schema["properties"].items()
            }
        case "object":
            inner = schema.get("additionalProperties")
            if not isinstance(inner, dict):
                return {}
            return {"positive": example_of(inner, schemas, name)}
        case "array":
            return [example_of(schema["items"], schemas, name)]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return False
        case "null" | None:
            return None
        case _:
            return _text(schema, name)


def _text(schema: Schema, name: str) -> str:
    if schema.get("format") == "date-time":
        return "2026-01-01T12:00:00Z"
    return STRINGS.get(name) or STRINGS.get(name.rpartition(".")[2]) or f"{UNEXPLAINED} {name}"
