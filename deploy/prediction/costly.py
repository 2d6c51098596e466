"""Refuses images of which few bytes take long, before Pillow sees them, and tells which are quick to decode."""

import re
import struct
from dataclasses import dataclass

from deploy.errors import DataError

MOST_SEGMENTS = 2_000
"""Segments of a JPEG file, or chunks of a PNG file; a camera writes some dozens, and a PNG of 100 MB in the usual chunks some thousand."""
MOST_FILL = 4_096
"""Bytes without meaning between the segments of a JPEG file."""
MOST_CHUNKS = 50_000
MOST_TILES = 20_000
"""Strips or tiles of a TIFF file."""
MOST_TAGS = 1_000
MOST_SCANS = 100
"""Scans of a JPEG file; a progressive one has about ten."""
_SCAN = b"\xff\xda"
_FIRST, _DENSE = 1 << 20, 1_000
"""Bytes in which markers of scans are counted at first, and bytes per marker below which nothing else explains them; in a film that
follows a photo, one is in 65,536 bytes."""
_NEXT = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")
"""The next marker with a length, or the end of the picture, wherever it may be within a scan."""
_UNFOLDING = (b"zTXt", b"iTXt", b"iCCP", b"acTL")
"""Chunks that become more than they are."""
_QUICK_BYTES, _QUICK_PIXELS, _QUICK_WORK = 4 << 20, 4_000_000, 16_000_000
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_USUAL = frozenset({0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
"""Markers of which every reader takes the length, so that nothing can be hidden between them."""
_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_TIFF_PLACES = (273, 324)
"""Tags that list where strips and tiles lie."""


@dataclass(frozen=True)
class Sight:
    """What the head of an image file shows; `quick` if decoding cannot take much longer than an ordinary photo takes."""

    quick: bool = False


def look(content: bytes) -> Sight:
    """Walk through the head of a file without decoding anything; formats that are not known here are not quick.

    Raises:
        DataError: more parts than any ordinary file has.
    """
    if content[:2] == b"\xff\xd8":
        if (scans := content.count(_SCAN, 0, _FIRST)) > MOST_SCANS and scans * _DENSE > min(len(content), _FIRST):
            raise DataError(f"JPEG with more than {MOST_SCANS} scans; save it again")
        return _jpeg(content)
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(content)
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _tiff(content)
    return Sight()


def refuse_scans(content: bytes) -> None:
    """Walk through all of a JPEG file; takes up to a second, so not for a thread that others wait for.

    Raises:
        DataError: more scans than any ordinary file has, up to the end of its first picture.
    """
    if content[:2] != b"\xff\xd8" or content.count(_SCAN) <= MOST_SCANS:
        return
    place, scans = 2, 0
    while (found := _NEXT.search(content, place)) and found[0] != b"\xff\xd9":
        scans += found[0] == _SCAN
        if scans > MOST_SCANS:
            raise DataError(f"JPEG with more than {MOST_SCANS} scans; save it again")
        length = int.from_bytes(content[found.end() : found.end() + 2], "big")
        place = found.end() + max(2, length)


def _jpeg(content: bytes) -> Sight:
    """The walk ends at the first scan, from where a decoder in C goes on."""
    place, fill, frames, plain = 2, 0, list[int](), True
    for _ in range(MOST_SEGMENTS):
        start = content.find(b"\xff", place)
        if start < 0:
            return Sight()
        end = start
        while content[end : end + 1] == b"\xff" and end - start <= MOST_FILL:
            end += 1
        fill += end - place - 1
        if fill > MOST_FILL:
            raise DataError(f"JPEG with more than {MOST_FILL:,} bytes of filling; save it again")
        marker = content[end] if end < len(content) else 0xD9
        if marker == 0xDA:
            return Sight(plain and fill == 0 and _is_quick_jpeg(content, frames))
        plain = plain and marker in _USUAL
        place = end + 1
        if marker in _BARE:
            continue
        if marker == 0xD9 or place + 2 > len(content):
            return Sight()
        if marker in _FRAMES and place + 7 <= len(content):
            height, width = struct.unpack_from(">HH", content, place + 3)
            frames.append(height * width)
        place += max(2, int.from_bytes(content[place : place + 2], "big"))
    raise DataError(f"JPEG with more than {MOST_SEGMENTS:,} segments; save it again")


def _is_quick_jpeg(content: bytes, frames: list[int]) -> bool:
    if len(frames) != 1 or not 0 < frames[0] <= _QUICK_PIXELS or len(content) > _QUICK_BYTES:
        return False
    return frames[0] * content.count(_SCAN) <= _QUICK_WORK


def _png(content: bytes) -> Sight:
    width, height = struct.unpack(">II", content[16:24].ljust(8, b"\xff"))
    place, plain = 8, content[12:16] == b"IHDR"
    for number in range(MOST_CHUNKS):
        if place + 8 > len(content):
            return Sight(plain and width * height <= _QUICK_PIXELS and len(content) <= _QUICK_BYTES)
        name = content[place + 4 : place + 8]
        plain = plain and name not in _UNFOLDING and (name != b"IHDR" or number == 0)
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    raise DataError(f"PNG with more than {MOST_CHUNKS:,} chunks; save it again")


def _tiff(content: bytes) -> None:
    """Look at the first directory; in BigTIFF, counts and places have eight bytes."""
    order = "<" if content[:2] == b"II" else ">"
    big = 43 in content[2:4]
    start, number, entry = ("8xQ", "Q", "HHQ8x") if big else ("4xI", "H", "HHI4x")
    (place,) = struct.unpack(order + start, content[: 16 if big else 8].ljust(16 if big else 8, b"\0"))
    width, size = struct.calcsize(order + number), struct.calcsize(order + entry)
    (count,) = struct.unpack(order + number, content[place : place + width].ljust(width, b"\0"))
    if count > MOST_TAGS:
        raise DataError(f"TIFF with more than {MOST_TAGS:,} tags; save it again")
    for at in range(place + width, min(place + width + size * count, len(content) - size + 1), size):
        tag, _, values = struct.unpack_from(order + entry, content, at)
        if values > MOST_TILES and tag in _TIFF_PLACES:
            raise DataError(f"TIFF of more than {MOST_TILES:,} strips or tiles; save it again")
