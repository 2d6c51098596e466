"""Reads the body of a request, within limits of size and time."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
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
    if (encoding := _encoding(request)) in _PLAIN:
        return content
    unpacked = await _in_turn(limits, unpack, content, encoding, limits)
    limits.hold(-len(content))
    return unpacked


async def read_files(request: Request, limits: Limits, max_files: int) -> list[File]:
    """The files of a multipart form, the images in JSON or a data: address, or the body itself.

    Raises:
        As `read`; Invalid: the form is malformed or contains no file, or the text holds no image; TooLarge: more than max_files.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        content = await read(request, limits)
        if not text.is_text(content):
            return [File(content)]
        return await _in_turn(limits, text.images, content, max_files, limits.hold)
    if (encoding := _encoding(request)) not in _PLAIN:
        raise Unsupported(f"content-encoding {encoding[:40]!r} of a form; send the form uncompressed")
    limited = Request(request.scope, _limited(request.headers, request.receive, limits))
    return await _in_time(_files(limited, limits, max_files), limits.seconds)


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
    if unpacker.unused_data:
        raise Invalid(f"the body goes on after its {encoding} data; send a single {encoding} stream and nothing else")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _encoding(request: Request) -> str:
    return request.headers.get("content-encoding", "identity").lower()


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


async def _files(request: Request, limits: Limits, max_files: int) -> list[File]:
    """The files of a form, which stay in memory: on disk they would need room there, and a client's images would lie there."""
    try:
        async with aclosing(request.stream()) as stream:
            parser = MultiPartParser(request.headers, stream, max_files=max_files, max_fields=64)
            parser.spool_max_size = 0  # unlimited
            form = await parser.parse()
    except MultiPartException as error:
        if not error.message.startswith("Too many files"):
            raise Invalid(error.message) from error
        raise TooLarge(f"more than {max_files} images in one request") from error
    except UnicodeError as error:
        raise Invalid(f"the form's charset cannot be read ({error}); leave it out") from error
    uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not uploads:
        raise Invalid("the form contains no file; send images as files, or one image as the body itself")
    files = []
    for upload in uploads:
        limits.hold(upload.size or 0)
        files.append(File(await upload.read(), _name(upload.filename)))
        await upload.close()
        limits.hold(-(upload.size or 0))
    return files


def _name(given: str | None) -> str | None:
    """A file's name as text that JSON can hold: some charsets stand for letters that are none."""
    return None if given is None else given.encode("utf-8", "backslashreplace").decode()


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
