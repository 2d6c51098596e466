"""Images that strangers may send to do harm, of every format, from a seed: the same seed gives the same bytes."""

import base64
import gzip
import io
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, features

Draw = np.random.Generator


def hostile(seed: int) -> tuple[str, bytes, str]:
    """The kind, the body of a request and its headers; seeds that follow each other are of different kinds."""
    draw = np.random.default_rng(seed)
    kind = list(KINDS)[seed % len(KINDS)]
    content, headers = KINDS[kind](draw), ""
    dress = draw.integers(8)
    if dress == 0:
        content, headers = gzip.compress(content, 1, mtime=0), "content-encoding: gzip\r\n"
    elif dress == 1:
        content = b'{"image": "' + base64.b64encode(content) + b'"}'
    elif dress == 2:
        content = b"data:image/png;base64," + base64.b64encode(content)
    return kind, content, headers


@cache
def saved(kind: str, mode: str = "RGB", side: int = 100, **options: object) -> bytes:
    """A plain image of one color."""
    file = io.BytesIO()
    Image.new(mode, (side, side), 100).save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@cache
def png(side: int, depth: int, color: int, *, interlaced: bool = False, before: bytes = b"") -> bytes:
    """A PNG file of zeros."""
    row = 1 + (side * depth * {0: 1, 2: 3, 6: 4}[color] + 7) // 8
    packer = zlib.compressobj(1)
    rows = [packer.compress(bytes(row * 64)) for _ in range(side // 64 + 2)]
    header = struct.pack(">IIBBBBB", side, side, depth, color, 0, 0, interlaced)
    image = chunk(b"IDAT", b"".join(rows) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + image + chunk(b"IEND")


@cache
def progressive(side: int, scans: int) -> bytes:
    """A gray JPEG file whose scans hold next to nothing."""
    blocks = ((side + 7) // 8) ** 2
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\x01\x11\0"
    tables = b"\xff\xdb\0\x43\0" + b"\x01" * 64
    for place, symbol in ((0x00, 0), (0x10, 0xE0)):
        tables += b"\xff\xc4" + struct.pack(">H", 20) + bytes([place, 1, *[0] * 15, symbol])
    first = b"\xff\xda\0\x08\x01\x01\0\0\0\0" + bytes((blocks + 7) // 8)
    runs = bytes((15 * (blocks // 16384 + 1) + 7) // 8)
    others = [b"\xff\xda\0\x08\x01\x01\0" + bytes([number, number, 1]) + runs for number in (1 + k % 63 for k in range(scans - 1))]
    return b"\xff\xd8" + tables + frame + first + b"".join(others) + b"\xff\xd9"


def tiff(draw: Draw) -> bytes:
    """Very many tiles or strips, in either size of TIFF."""
    tag, count = int(draw.choice([273, 324])), int(draw.integers(30_000, 4_000_000))
    if draw.integers(2):
        return struct.pack("<4sHHQQHHQQ", b"II+\0", 8, 0, 16, 1, tag, 16, count, 44) + bytes(100_000)
    return struct.pack("<4sIHHHII", b"II*\0", 8, 1, tag, 4, count, 26) + bytes(100_000)


def flipped(content: bytes, draw: Draw) -> bytes:
    """Some bytes changed."""
    array = bytearray(content)
    for place in draw.integers(4, len(array), 12):
        array[place] = int(draw.integers(256))
    return bytes(array)


def _side(draw: Draw) -> int:
    return 64 * int(draw.integers(32, 98))


def _after_start(content: bytes, what: bytes) -> bytes:
    return content[:2] + what + content[2:]


def _any(draw: Draw, *made: bytes) -> bytes:
    return made[int(draw.integers(len(made)))]


def _size_of(content: bytes, kind: str) -> bytes:
    """The same file, that claims to be larger."""
    if kind == "PNG":
        header = struct.pack(">II", 50_000, 50_000) + content[24:29]
        return content[:8] + chunk(b"IHDR", header) + content[33:]
    place = content.index(b"\xff\xc0")
    return content[: place + 5] + struct.pack(">HH", 6000, 6000) + content[place + 9 :]


KINDS: dict[str, Callable[[Draw], bytes]] = {
    "jpeg filling": lambda draw: _after_start(saved("JPEG"), b"\xff" * int(draw.integers(1 << 16, 4 << 20))),
    "jpeg segments": lambda draw: _after_start(saved("JPEG"), b"\xff\xe5\0\x02" * int(draw.integers(10_000, 1 << 20))),
    "jpeg profiles": lambda draw: _after_start(saved("JPEG"), b"\xff\xe2\0\x10ICC_PROFILE\0\x01\x01" * int(draw.integers(3000, 100_000))),
    "jpeg scans": lambda draw: progressive(_side(draw), int(draw.integers(20, 200))),
    "jpeg large": lambda draw: saved("JPEG", side=_side(draw), quality=1),
    "jpeg claims": lambda _: _size_of(saved("JPEG"), "JPEG"),
    "jpeg damaged": lambda draw: flipped(saved("JPEG", side=640), draw),
    "jpeg cut": lambda draw: saved("JPEG", side=2048)[: int(draw.integers(2, 10_000))],
    "png 16 bit": lambda draw: png(_side(draw), 16, _any(draw, b"\0", b"\2", b"\6")[0]),
    "png large": lambda draw: png(_side(draw), 8, 6),
    "png interlaced": lambda draw: png(_side(draw), 8, 2, interlaced=True),
    "png one bit": lambda draw: png(_side(draw), 1, 0),
    "png chunks": lambda _: png(64, 8, 2, before=chunk(b"prVt") * 100_000),
    "png text": lambda _: png(64, 8, 2, before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 60),
    "png profile": lambda _: png(64, 8, 2, before=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
    "png claims": lambda _: _size_of(saved("PNG"), "PNG"),
    "png damaged": lambda draw: flipped(saved("PNG", side=640), draw),
    "gif large": lambda draw: saved("GIF", "P", _side(draw)),
    "gif blocks": lambda draw: saved("GIF", "P", 8)[:-1] + b"\x21\xfe" + b"\x01A" * int(draw.integers(1 << 16, 1 << 21)) + b"\0;",
    "gif damaged": lambda draw: flipped(saved("GIF", "P", 640), draw),
    "webp large": lambda draw: saved("WEBP", side=_side(draw), lossless=True),
    "webp damaged": lambda draw: flipped(saved("WEBP", side=640), draw),
    "bmp run lengths": lambda draw: saved("BMP")[:30] + struct.pack("<I", int(draw.integers(1, 3))) + saved("BMP")[34:],
    "bmp claims": lambda draw: saved("BMP")[:18] + struct.pack("<ii", 6000, int(draw.choice([6000, -6000]))) + saved("BMP")[26:],
    "tiff parts": tiff,
    "tiff packed": lambda draw: saved("TIFF", side=_side(draw), compression=str(draw.choice(["tiff_lzw", "tiff_adobe_deflate"]))),
    "tiff circle": lambda draw: struct.pack("<4sIH", b"II*\0", 8, 0) + struct.pack("<I", 8) + bytes(int(draw.integers(1 << 16))),
    "tiff damaged": lambda draw: flipped(saved("TIFF", side=640), draw),
    "jpeg 2000": lambda _: saved("JPEG2000", side=4096) if features.check("jpg_2000") else b"\0\0\0\x0cjP  \r\n\x87\n",
    "ppm": lambda _: b"P3 6000 6000 255\n" + b"1 " * 10_000,
    "avif": lambda draw: b"\0\0\0\x1cftypavif" + bytes(int(draw.integers(100, 10_000))),
    "no image": lambda draw: draw.integers(0, 256, int(draw.integers(1, 1 << 16)), dtype=np.uint8).tobytes(),
    "text": lambda draw: b"a" * 64 + b"\n" * int(draw.integers(1 << 10, 4 << 20)) + b"!",
    "json": lambda draw: b'{"images": [' + b'"\\u0041",' * int(draw.integers(1000, 100_000)) + b'""]}',
}
