"""Images in a body of text: base64 in JSON, or data: addresses."""

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from deploy.serving.refusals import Invalid, TooLarge
from deploy.serving.work import File

_SHAPE = '{"image": "<base64>"} or {"images": ["<base64>", ...]}'
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{64}[A-Za-z0-9+/_\r\n-]*={0,2}\s*")
_DATA = b"data:"
_MOST_MARKS = 10_000


def is_text(content: bytes) -> bool:
    """Whether a body is text that may hold images; no image format begins as such text does."""
    start = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    return start[:1] in (b"{", b"[", b'"') or start[:5].lower() == _DATA or _BASE64.fullmatch(content) is not None


def images(content: bytes, max_images: int, hold: Callable[[int], None]) -> list[File]:
    """The images in a body of text.

    Args:
        hold: called with the number of bytes that each image has once it is decoded.

    Raises:
        Invalid: not such JSON, or not base64.
        TooLarge: more than max_images.
        Busy: see `hold`.
    """
    content = content.strip().removeprefix(b"\xef\xbb\xbf")
    if content[:5].lower() == _DATA:
        return [File(_decoded(content, "the body", hold))]
    if _BASE64.fullmatch(content):
        raise Invalid(f"the body is text in base64; send the bytes themselves, or JSON: {_SHAPE}")
    found = _values(content)
    if len(found) > max_images:
        raise TooLarge(f"more than {max_images} images in one request")
    return [File(_decoded(value, name, hold)) for name, value in found.items()]


def _values(content: bytes) -> dict[str, bytes]:
    """The text of each image, by its place in the JSON.

    Raises:
        Invalid: not JSON of the expected shape.
    """
    if any(content.count(mark) > _MOST_MARKS for mark in (b"[", b"{", b'"')):  # parsed, each would take many times its bytes
        raise Invalid(f"JSON with more than {_MOST_MARKS:,} lists, objects or texts; allowed: {_SHAPE}")
    if content.count(b",") > _MOST_MARKS:
        raise Invalid(f"JSON with more than {_MOST_MARKS:,} values; allowed: {_SHAPE}")
    try:
        body: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the body is not JSON ({str(error)[:80]}); send the bytes of an image, or JSON: {_SHAPE}") from error
    if not isinstance(body, dict) or len(body) != 1 or not body.keys() & {"image", "images"}:
        keys = f"keys {', '.join(map(repr, body))[:80]}" if isinstance(body, dict) else f"a {type(body).__name__}"
        raise Invalid(f"JSON with {keys}; allowed: {_SHAPE}")
    ((key, value),) = body.items()
    if key == "images" and not (isinstance(value, list) and value):
        raise Invalid(f"images is not a list of at least one image; allowed: {_SHAPE}")
    named = {f"images[{number}]": one for number, one in enumerate(value)} if key == "images" else {key: value}
    for name, one in named.items():
        if not isinstance(one, str):
            raise Invalid(f"{name} is not text; allowed: {_SHAPE}")
    return {name: one.encode("utf-8", "replace") for name, one in named.items()}


def _decoded(text: bytes, name: str, hold: Callable[[int], None]) -> bytes:
    """The bytes that base64 stands for, with its two alphabets, line breaks, and padding or none.

    Raises:
        Invalid: it is not base64.
    """
    if text[:5].lower() == _DATA:
        head, comma, text = text.partition(b",")
        if not comma or not head.lower().endswith(b";base64"):
            raise Invalid(f"{name}: a data: address without ;base64, before its data; write data:image/png;base64,...")
        text = unquote_to_bytes(text)
    elif b"://" in text[:16]:
        raise Invalid(f"{name}: an address, and nothing is downloaded; send the image's bytes in base64")
    plain = b"".join(text.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    hold(len(plain) * 3 // 4)
    try:
        content = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise Invalid(f"{name}: not valid base64 ({error})") from error
    if not content:
        raise Invalid(f"{name}: empty; send an image's bytes in base64")
    return content
