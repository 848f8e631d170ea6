"""The pictures in a request: raw bytes, a form with files, or JSON with base64; no more of it is read than may be."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from pixelfit.serve.limits import Limits, RefusedError, Share
from pixelfit.types import Json

_RAW = ("image/", "application/octet-stream")
_FIELD = "files"


@dataclass(frozen=True)
class SentFile:
    """A file as it was sent."""

    name: str | None
    content: bytes


async def files_of(request: Request, limits: Limits, share: Share) -> list[SentFile]:
    """The request's files, at least one; ``share`` is told how many bytes come.

    Raises:
        RefusedError: they are too many or too large, of another kind, or not what the request's head says.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith(_RAW):
        return [SentFile(None, b"".join([part async for part in _parts(request, limits.max_bytes, "The file", share)]))]
    if kind not in ("multipart/form-data", "application/json"):
        raise RefusedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"The content type {kind or '(none)'} is not taken: send image/… or application/octet-stream, multipart/form-data or "
            f"application/json.",
        )
    parts = _parts(request, limits.max_body, "The request", share)
    if kind == "application/json":
        return _of_json(b"".join([part async for part in parts]), limits)
    return await _of_form(_FormParser(request.headers, parts, limits), limits)


async def _parts(request: Request, most: int, what: str, share: Share) -> AsyncGenerator[bytes, None]:
    """The body as it comes, up to so many bytes."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(what, most)
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            share.take(len(part))
            if size > most:
                raise _too_large(what, most)
            yield part
    except ClientDisconnect:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "The request ended before its body did.") from None


class _FormParser(MultiPartParser):
    """Starlette's, and it does not wait for the end of a file that is too large already."""

    def __init__(self, headers: Headers, parts: AsyncGenerator[bytes, None], limits: Limits) -> None:
        super().__init__(headers, parts, max_files=limits.max_files + 1, max_fields=0)
        self._limits, self._size = limits, 0

    def on_part_begin(self) -> None:
        """A part begins."""
        self._size = 0
        super().on_part_begin()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """More of it has come."""
        self._size += end - start
        if self._size > self._limits.max_bytes:
            raise _too_large("A file", self._limits.max_bytes)
        super().on_part_data(data, start, end)


async def _of_form(parser: _FormParser, limits: Limits) -> list[SentFile]:
    needed = f"The form needs its pictures as files in fields named {_FIELD!r}."
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise _too_many(limits) from None
        reason = needed if "Too many fields" in error.message else f"The form cannot be read: {error.message.rstrip('.')}."
        raise RefusedError(HTTPStatus.BAD_REQUEST, reason) from None
    try:
        found = [(name, part) for name, part in form.multi_items() if isinstance(part, UploadFile)]
        if not found or any(name != _FIELD for name, _ in found):
            raise RefusedError(HTTPStatus.BAD_REQUEST, needed)
        if len(found) > limits.max_files:
            raise _too_many(limits)
        return [SentFile(part.filename or None, await part.read()) for _, part in found]
    finally:
        await form.close()


def _of_json(body: bytes, limits: Limits) -> list[SentFile]:
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "The body is no JSON.") from None
    pictures = sent.get("pictures") if isinstance(sent, dict) else None
    if not isinstance(pictures, list) or not pictures:
        raise RefusedError(
            HTTPStatus.BAD_REQUEST, 'The JSON must be {"pictures": [...]}, each a base64 text or {"name", "data"}.'
        )
    if len(pictures) > limits.max_files:
        raise _too_many(limits)
    return [_of_entry(entry, place, limits) for place, entry in enumerate(pictures)]


def _of_entry(entry: Json, place: int, limits: Limits) -> SentFile:
    name, data = (entry.get("name"), entry.get("data")) if isinstance(entry, dict) else (None, entry)
    if not isinstance(data, str) or not (name is None or isinstance(name, str)):
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"Picture {place} of the JSON is neither a base64 text nor a name with data.")
    if data.startswith("data:"):
        data = data.partition(",")[2]
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"Picture {place} of the JSON is no base64.") from None
    if len(content) > limits.max_bytes:
        raise _too_large(f"Picture {place} of the JSON", limits.max_bytes)
    return SentFile(name, content)


def _too_large(what: str, most: int) -> RefusedError:
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{what} is larger than the {most / 2**20:,.6g} MiB that are taken.")


def _too_many(limits: Limits) -> RefusedError:
    return RefusedError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A request may bring {limits.max_files} files; this one brings more."
    )
