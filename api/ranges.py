"""Unchanging bytes over HTTP: whole, in ranges, or not at all when the client has them.

RFC 9110: section 14 for ranges, section 13 for If-None-Match and If-Range.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from api.errors import problem, responses

MAX_SPANS = 16
"""Whoever asks for more pieces gets the whole: they may cost more than they save."""

_READERS = ThreadPoolExecutor(2, "pieces")
"""Of all downloads: what one has read is sent before it leaves the processor's caches."""

Given = TypeVar("Given")


@dataclass(frozen=True)
class Content:
    """Bytes that can be read from any place on."""

    size: int
    sha256: str
    """Equal for equal bytes: the ETag."""
    media_type: str
    filename: str
    read: Callable[[int, int], Iterator[bytes]]
    """The bytes from the first place up to the second."""


@dataclass(frozen=True, order=True)
class Span:
    """The bytes from `start` up to `end`."""

    start: int
    end: int


async def respond(request: Request, find: Callable[[], Content]) -> Response:
    """What a GET or HEAD with these headers gets of what `find` finds, in a thread."""
    return await _in_thread(lambda: _answer(request, find()))


def _answer(request: Request, content: Content) -> Response:
    etag = f'"{content.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",  # may be kept, by its owner, and asked about
        "Content-Disposition": f'attachment; filename="{content.filename}"',
    }
    if _names(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    spans = None
    if request.headers.get("if-range", etag) == etag:  # else what the client has is outdated
        spans = requested(request.headers.get("range", ""), content.size)
    if spans is None:
        return _send(request, content, 200, headers, [Span(0, content.size)])
    if not spans:
        return _unsatisfiable(content.size)
    if len(spans) == 1:
        headers |= {"Content-Range": _content_range(spans[0], content.size)}
        return _send(request, content, 206, headers, spans)
    return _send_several(request, content, headers, spans)


def content_responses(media_type: str) -> dict[int | str, dict[str, Any]]:
    """What `respond` may answer, for a route's OpenAPI entry."""
    body = {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}
    return {
        200: {**body, "description": "The whole of it."},
        206: {**body, "description": "The bytes that `Range` asked for."},
        304: {"description": "It is what `If-None-Match` names."},
        **responses(404, 410, 416),
    }


def requested(header: str, size: int) -> Sequence[Span] | None:
    """What a Range header asks for of `size` bytes, in order, none touching another.

    Empty when all of it lies past the end; None when there is nothing to understand in the
    header, which then counts as not sent.
    """
    unit, _, listed = header.partition("=")
    parts = [_bounds(part) for part in listed.split(",")]
    if unit.strip().lower() != "bytes" or None in parts:
        return None
    spans = _merge(sorted(_span(*part, size) for part in parts if part is not None))
    return spans if len(spans) <= MAX_SPANS else None


def _bounds(part: str) -> tuple[int | None, int | None] | None:
    """The first and the last byte of `a-b`, `a-` or `-n`; None for anything else."""
    match = re.fullmatch(r"\s*([0-9]{0,18})-([0-9]{0,18})\s*", part)
    if match is None or part.strip() == "-":
        return None
    first, last = (int(text) if text else None for text in match.groups())
    backwards = first is not None and last is not None and last < first
    return None if backwards else (first, last)


def _span(first: int | None, last: int | None, size: int) -> Span:
    """Empty when it lies past the end."""
    if first is None:
        return Span(max(0, size - (last or 0)), size)
    return Span(first, size if last is None else min(last + 1, size))


def _merge(spans: Sequence[Span]) -> Sequence[Span]:
    merged: list[Span] = []
    for span in spans:
        if span.start >= span.end:
            continue
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def _send(
    request: Request,
    content: Content,
    status: int,
    headers: Mapping[str, str],
    parts: Sequence[bytes | Span],
    media_type: str | None = None,
) -> Response:
    length = sum(len(p) if isinstance(p, bytes) else p.end - p.start for p in parts)
    return _Pieces(
        _body(content, () if request.method == "HEAD" else parts),
        length,
        status_code=status,
        headers={**headers, "Content-Length": str(length)},
        media_type=media_type or content.media_type,
    )


class _Pieces(Response):
    """A body that is read as it is sent, and no further once the client has gone.

    Who makes it reads the first piece."""

    def __init__(self, pieces: Iterator[bytes], length: int, **head: Any) -> None:
        super().__init__(**head)
        self._pieces, self._left = pieces, length
        self._first = self._next()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_until_gone(receive))
        try:
            head = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **head})
            piece = self._first
            while piece is not None and not gone.done():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._left -= len(piece)
                piece = await _in_thread(self._next) if self._left else None
            await send({"type": "http.response.body"})
        finally:
            gone.cancel()

    def _next(self) -> bytes | None:
        return next(self._pieces, None)


async def _in_thread(call: Callable[[], Given]) -> Given:
    return await asyncio.wrap_future(_READERS.submit(call))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        """A part of the request, which says nothing here."""


def _body(content: Content, parts: Sequence[bytes | Span]) -> Iterator[bytes]:
    for part in parts:
        yield from [part] if isinstance(part, bytes) else content.read(part.start, part.end)


def _send_several(
    request: Request, content: Content, headers: Mapping[str, str], spans: Sequence[Span]
) -> Response:
    boundary = token_hex(16)
    parts: list[bytes | Span] = []
    for span in spans:
        head = (
            f"--{boundary}\r\nContent-Type: {content.media_type}\r\n"
            f"Content-Range: {_content_range(span, content.size)}\r\n\r\n"
        )
        parts += [head.encode(), span, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    media_type = f"multipart/byteranges; boundary={boundary}"
    return _send(request, content, 206, headers, parts, media_type)


def _unsatisfiable(size: int) -> Response:
    return problem(
        416,
        "range_not_satisfiable",
        f"the Range lies past the end: there are {size} bytes",
        headers={"Content-Range": f"bytes */{size}"},
    )


def _content_range(span: Span, size: int) -> str:
    return f"bytes {span.start}-{span.end - 1}/{size}"


def _names(if_none_match: str, etag: str) -> bool:
    listed = [entry.strip().removeprefix("W/") for entry in if_none_match.split(",")]
    return etag in listed or listed == ["*"]
