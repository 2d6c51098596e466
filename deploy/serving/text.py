"""Images in a body of text: base64 in JSON, or data: addresses."""

import binascii
import json
import re
from collections import deque
from collections.abc import Callable
from typing import Any

from deploy.serving.refusals import Invalid, TooLarge
from deploy.serving.work import File

_SHAPE = '{"image": "<base64>"} or {"images": ["<base64>", ...]}'
_START = re.compile(rb"[A-Za-z0-9+/_-]{64}[A-Za-z0-9+/_=\s-]*")
_LONGEST_START = 4096
_OTHER_LETTERS = re.compile(rb"\\u(?!00)")
_DATA = b"data:"
_MOST_MARKS = 10_000
_MARK = b"\xef\xbb\xbf"
_COPIES = 3
"""Copies of a body of text while it is parsed, in addition to itself."""
_PERCENT = {f"%{ord(sign):02{case}}".encode(): sign.encode() for sign in "+/=-_\r\n " for case in "xX"}
"""What an address may have to write otherwise."""
_PIECE = 1 << 20
"""Bytes of base64 that are decoded without letting other threads run; four of them are three bytes of the image."""
_ALPHABET = bytes.maketrans(b"-_", b"+/")


def is_text(content: bytes) -> bool:
    """Whether a body is text that may hold images; no image format begins as such text does."""
    start = _start(content)
    return start[:1] in (b"{", b"[", b'"') or start[:5].lower() == _DATA or _is_base64(content)


def images(content: bytes, max_images: int, hold: Callable[[int], None]) -> list[File]:
    """The images in a body of text.

    Args:
        hold: called with the number of bytes that parsing takes, and in the end with how many more or fewer the images take.

    Raises:
        Invalid: not such JSON, or not base64.
        TooLarge: more than max_images.
        Busy: see `hold`.
    """
    hold(_COPIES * len(content))
    files = _files(content, max_images)
    hold(sum(len(file.content) for file in files) - _COPIES * len(content))
    return files


def _files(content: bytes, max_images: int) -> list[File]:
    if not content.removeprefix(_MARK).isascii():
        raise Invalid(f"text with letters that base64 does not have; allowed: {_SHAPE}")
    if _start(content)[:5].lower() == _DATA:
        return [File(_decoded(content, "the body"))]
    if _is_base64(content):
        raise Invalid(f"the body is text in base64; send the bytes themselves, or JSON: {_SHAPE}")
    found = _values(content)
    if len(found) > max_images:
        raise TooLarge(f"more than {max_images} images in one request")
    files = []
    while found:
        name = found[0][0]
        files.append(File(_decoded(found.popleft()[1].encode(), name)))  # the text is freed before the next copy is made
    return files


def _start(content: bytes) -> bytes:
    return content[:64].lstrip(_MARK + b" \t\r\n")


def _is_base64(content: bytes) -> bool:
    """Whether a body begins as base64 without JSON around it; its start is enough to tell, and takes no time."""
    return _START.fullmatch(content[:_LONGEST_START]) is not None


def _values(content: bytes) -> deque[tuple[str, str]]:
    """The place in the JSON and the text of each image.

    Raises:
        Invalid: not JSON of the expected shape.
    """
    if any(content.count(mark) > _MOST_MARKS for mark in (b"[", b"{", b'"')):  # parsed, each would take many times its bytes
        raise Invalid(f"JSON with more than {_MOST_MARKS:,} lists, objects or texts; allowed: {_SHAPE}")
    if content.count(b",") > _MOST_MARKS:
        raise Invalid(f"JSON with more than {_MOST_MARKS:,} values; allowed: {_SHAPE}")
    if content.count(b"\\") > len(content) // 16 + _MOST_MARKS:  # some tools write + or / so
        raise Invalid(f"text that is written with too many backslashes; allowed: {_SHAPE}")
    if _OTHER_LETTERS.search(content):  # one of them makes a text of four bytes per letter
        raise Invalid(f"text with letters that base64 does not have; allowed: {_SHAPE}")
    try:
        body: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the body is not JSON ({str(error)[:80]}); send the bytes of an image, or JSON: {_SHAPE}") from error
    if not isinstance(body, dict) or len(body) != 1 or not body.keys() & {"image", "images"}:
        keys = f"keys {', '.join(repr(key[:80]) for key in body)[:80]}" if isinstance(body, dict) else f"a {type(body).__name__}"
        raise Invalid(f"JSON with {keys}; allowed: {_SHAPE}")
    ((key, value),) = body.items()
    if key == "images" and not (isinstance(value, list) and value):
        raise Invalid(f"images is not a list of at least one image; allowed: {_SHAPE}")
    named = [(f"images[{number}]", one) for number, one in enumerate(value)] if key == "images" else [(key, value)]
    for name, one in named:
        if not isinstance(one, str) or not one.isascii():
            raise Invalid(f"{name} is not text in base64; allowed: {_SHAPE}")
    return deque(named)


def _decoded(text: bytes, name: str) -> bytes:
    """The bytes that base64 stands for, with its two alphabets, line breaks, and padding or none.

    Raises:
        Invalid: it is not base64.
    """
    if _start(text)[:5].lower() == _DATA:
        head, comma, _ = text[:_LONGEST_START].partition(b",")
        if not comma or not head.lower().endswith(b";base64"):
            raise Invalid(f"{name}: a data: address without ;base64, before its data; write data:image/png;base64,...")
        text = text[len(head) + 1 :]
        if b"%" in text:
            for written, sign in _PERCENT.items():
                text = text.replace(written, sign)
    elif b"://" in text[:16]:
        raise Invalid(f"{name}: an address, and nothing is downloaded; send the image's bytes in base64")
    text = text.translate(_ALPHABET, b" \t\r\n\f\v").rstrip(b"=")
    text += b"=" * (-len(text) % 4)
    try:
        content = b"".join(binascii.a2b_base64(text[at : at + _PIECE], strict_mode=True) for at in range(0, len(text), _PIECE))
    except binascii.Error as error:
        raise Invalid(f"{name}: not valid base64 ({error})") from error
    if not content:
        raise Invalid(f"{name}: empty; send an image's bytes in base64")
    return content
