"""Reads the body of a request, within limits of size and time."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from deploy.serving import text
from deploy.serving.refusals import Expired, Gone, Invalid, TooLarge, TooSlow, Unsupported
from deploy.serving.work import File

T = TypeVar("T")
_PLAIN = ("", "identity")
_PIECE = 8 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of a body in bytes and seconds; `hold` is called with the number of bytes of each piece.

    `turns` limits how many bodies are unpacked at the same time, each on a thread that may keep others from running for a moment.
    """

    bytes: int
    seconds: float
    hold: Callable[[int], None]
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


async def read(request: Request, limits: Limits) -> bytes:
    """The entire body, decompressed if it is gzip or deflate.

    Raises:
        TooLarge: more bytes than allowed, whatever length the header states.
        TooSlow: it does not arrive in time.
        Gone: the client went away.
        Unsupported: a different encoding.
        Invalid: it cannot be decompressed.
        Busy: the bodies of other requests take up too much memory.
    """
    content = await _in_time(_join(_limited(request.headers, request.receive, limits)), limits.seconds)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding in _PLAIN:
        return content
    unpacked = await _in_turn(limits, unpack, content, encoding, limits)
    limits.hold(-len(content))
    return unpacked


async def read_files(request: Request, limits: Limits, max_files: int) -> list[File]:
    """The files of a multipart form, the images in JSON or a data: address, or the body itself.

    Raises:
        As `read`; Invalid: the form is malformed or contains no file, or the text holds no image; TooLarge: more than max_files.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        content = await read(request, limits)
        if not text.is_text(content):
            return [File(content)]
        return await _in_turn(limits, text.images, content, max_files, limits.hold)
    if (encoding := request.headers.get("content-encoding", "identity")) not in _PLAIN:
        raise Unsupported(f"content-encoding {encoding[:40]!r} of a form; send the form uncompressed")
    limited = Request(request.scope, _limited(request.headers, request.receive, limits))
    return await _in_time(_files(limited, max_files), limits.seconds)


async def until_gone(receive: Receive) -> None:
    """Return when the client hangs up; to be awaited after the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def unpack(content: bytes, encoding: str, limits: Limits) -> bytes:
    """The decompressed body, whose pieces are held as they come: a few bytes may become many.

    Raises:
        TooLarge, Unsupported, Invalid, Busy: see `read`.
    """
    if encoding not in ("gzip", "deflate"):
        raise Unsupported(f"content-encoding {encoding[:40]!r}; allowed: gzip, deflate, identity")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
    parts: list[bytes] = []
    left = limits.bytes + 1
    try:
        while content and left > 0 and not unpacker.eof:
            piece = min(_PIECE, left)
            limits.hold(piece)
            parts.append(unpacker.decompress(content, piece))
            limits.hold(len(parts[-1]) - piece)
            left -= len(parts[-1])
            content = unpacker.unconsumed_tail
    except zlib.error as error:
        raise Invalid(f"the body is not valid {encoding} ({error})") from error
    if left <= 0:
        raise TooLarge(f"the body decompresses to more than {limits.bytes:,} bytes")
    if not unpacker.eof:
        raise Invalid(f"the body's {encoding} data is truncated")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _in_turn(limits: Limits, function: Callable[..., T], *given: Any) -> T:
    try:
        async with asyncio.timeout(limits.seconds):
            await limits.turns.acquire()
    except TimeoutError as error:
        raise Expired("the request's time expired before its body was unpacked") from error
    try:
        return await asyncio.to_thread(function, *given)
    finally:
        limits.turns.release()


async def _in_time(reading: Awaitable[T], seconds: float) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError as error:
        raise TooSlow(f"the body did not arrive within {seconds:.3g} s") from error


async def _join(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _files(request: Request, max_files: int) -> list[File]:
    try:
        async with request.form(max_files=max_files, max_fields=64) as form:
            uploads: Sequence[UploadFile] = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not uploads:
                raise Invalid("the form contains no file; send images as files, or one image as the body itself")
            return [File(await upload.read(), upload.filename) for upload in uploads]
    except HTTPException as error:
        if not error.detail.startswith("Too many files"):
            raise
        raise TooLarge(f"more than {max_files} images in one request") from error


def _limited(headers: Headers, receive: Receive, limits: Limits) -> Callable[[], Awaitable[Message]]:
    """Stop reading at the limit, or immediately if the header announces more."""
    stated = headers.get("content-length", "0")
    large = TooLarge(f"the body is larger than {limits.bytes:,} bytes; send a smaller one")
    if stated.isascii() and stated.isdigit() and int(stated) > limits.bytes:
        raise large
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone("the client went away")
        piece = len(message.get("body", b""))
        received += piece
        if received > limits.bytes:
            raise large
        limits.hold(piece)
        return message

    return receive_limited
