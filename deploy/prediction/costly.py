"""Refuses images of which few bytes take long, before Pillow sees them, and tells which are quick to decode."""

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
MOST_SCANS = 100
_SCAN = b"\xff\xda"
_QUICK_BYTES, _QUICK_PIXELS, _QUICK_WORK = 4 << 20, 4_000_000, 16_000_000
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
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
        return _jpeg(content)
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(content)
    if content[:4] in (b"II*\0", b"MM\0*"):
        _tiff(content)
    return Sight()


def _jpeg(content: bytes) -> Sight:
    """The walk ends at the first scan, from where a decoder in C goes on."""
    scans = content.count(_SCAN)
    if scans > MOST_SCANS:
        raise DataError(f"JPEG with more than {MOST_SCANS} scans; save it again")
    place, pixels, fill = 2, 0, 0
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
            return Sight(0 < pixels <= _QUICK_PIXELS and pixels * scans <= _QUICK_WORK and len(content) <= _QUICK_BYTES)
        place = end + 1
        if marker in _BARE:
            continue
        if marker == 0xD9 or place + 2 > len(content):
            return Sight()
        if marker in _FRAMES and place + 7 <= len(content):
            height, width = struct.unpack_from(">HH", content, place + 3)
            pixels = max(pixels, height * width)
        place += max(2, int.from_bytes(content[place : place + 2], "big"))
    raise DataError(f"JPEG with more than {MOST_SEGMENTS:,} segments; save it again")


def _png(content: bytes) -> Sight:
    width, height = struct.unpack(">II", content[16:24].ljust(8, b"\xff"))
    place, plain = 8, True
    for _ in range(MOST_CHUNKS):
        if place + 8 > len(content):
            return Sight(plain and width * height <= _QUICK_PIXELS and len(content) <= _QUICK_BYTES)
        plain = plain and content[place + 4 : place + 8] not in (b"zTXt", b"iTXt", b"iCCP", b"acTL")
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    raise DataError(f"PNG with more than {MOST_CHUNKS:,} chunks; save it again")


def _tiff(content: bytes) -> None:
    order = "<" if content[:2] == b"II" else ">"
    (place,) = struct.unpack(f"{order}I", content[4:8].ljust(4, b"\0"))
    (count,) = struct.unpack(f"{order}H", content[place : place + 2].ljust(2, b"\0"))
    for start in range(place + 2, min(place + 2 + 12 * count, len(content) - 11), 12):
        tag, _, values = struct.unpack_from(f"{order}HHI", content, start)
        if values > MOST_TILES and tag in _TIFF_PLACES:
            raise DataError(f"TIFF of more than {MOST_TILES:,} strips or tiles; save it again")
