"""A multipart body of any size: its file goes to disk as it comes, its few fields to memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from finlora_core.datasets.files import require_fits
from finlora_core.errors import InvalidRequest, KeyProblem, MalformedBody

MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS = 32
MARGIN = 1024 * 1024
"""Bytes that a body may have beside its file."""

Write = Callable[[bytes], None]


@dataclass
class Form:
    """What has come, but for the file's content."""

    filename: str = ""
    fields: dict[str, str] = field(default_factory=dict)


async def receive(request: Request, key: str, write: Write, limit: int) -> Form:
    """Everything in the body; the content of its part `key`, at most `limit` bytes, to `write`.

    Raises `UploadTooLarge` before reading where the client says how much it sends;
    `MalformedBody`; `InvalidRequest` without a file; and whatever `write` raises.
    """
    require_fits(int(request.headers.get("content-length", 0)) - MARGIN, limit)
    reader = _Reader(key, write)
    try:
        parser = MultipartParser(_boundary(request), reader.callbacks(), limit + MARGIN)
        async for chunk in request.stream():
            await run_in_threadpool(parser.write, chunk)
    except FormParserError as error:
        raise MalformedBody(f"the body is not multipart/form-data: {error}") from None
    except ClientDisconnect:
        raise MalformedBody("the connection ended before the body did") from None
    return reader.result()


def describe(key: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The body of such a route, for its OpenAPI entry: beside the file, these JSON schemas."""
    file = {"type": "string", "format": "binary"}
    schema = {
        "type": "object",
        "required": [key],
        "properties": {key: file, **fields},
        "additionalProperties": False,
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise MalformedBody("send the file as multipart/form-data, as `curl -F file=@…` does")
    return options[b"boundary"]


class _Reader:
    """The parser's callbacks. All is in bytes until a part has ended."""

    def __init__(self, key: str, write: Write) -> None:
        self._key = key
        self._write = write
        self._form = Form()
        self._files = 0
        self._is_whole = False
        self._header = self._value = b""
        self._disposition = b""
        self._name = ""
        self._content = bytearray()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._read_header,
            "on_header_value": self._read_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._read_content,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def result(self) -> Form:
        if not self._is_whole:
            raise MalformedBody("the body ends before its last boundary")
        if self._files == 0:
            raise InvalidRequest(KeyProblem(self._key, "missing_key", "the file is required"))
        return self._form

    def _begin(self) -> None:
        self._disposition, self._content = b"", bytearray()

    def _read_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _read_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = _text(options.get(b"name", b""))
        if self._name == self._key:
            self._files += 1
            self._form.filename = _text(options.get(b"filename", b""))
        elif b"filename" in options or len(self._form.fields) >= MAX_FIELDS:
            raise MalformedBody(f"send one file, as {self._key!r}, and few fields beside it")
        if self._files > 1:
            raise MalformedBody(f"send one file only as {self._key!r}")

    def _read_content(self, data: bytes, start: int, end: int) -> None:
        if self._name == self._key:
            self._write(data[start:end])
            return
        self._content += data[start:end]
        if len(self._content) > MAX_FIELD_BYTES:
            raise MalformedBody(f"{self._name!r} is longer than {MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._name != self._key:
            self._form.fields[self._name] = _text(bytes(self._content))

    def _end(self) -> None:
        self._is_whole = True


def _text(content: bytes) -> str:
    """A lone byte of another encoding must not cost an upload; what names things is checked."""
    return content.decode("utf-8", errors="replace")
