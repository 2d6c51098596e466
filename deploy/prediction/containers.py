"""What a video file's container tells without decoding: its kind, its length, whether its end is missing."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from deploy.machine.files import open_regular

_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"styp", b"sidx", b"mfra", b"uuid", b"meta")
_EBML = b"\x1a\x45\xdf\xa3"


@dataclass(frozen=True)
class Container:
    """`kind`: mp4 (also mov), avi or mkv (also webm); `cut`: the file ends early; `duration_s`: as edited, where the kind states it."""

    kind: str
    cut: bool
    duration_s: float | None = None


def is_video(head: bytes) -> bool:
    """Whether a file that begins with these 12 bytes or more is a video of a kind that is read."""
    return head.startswith(_EBML) or (head[:4] == b"RIFF" and head[8:12] == b"AVI ") or head[4:8] in _ATOMS[:6]


def examine(path: Path) -> Container | None:
    """The container of a file; None if it is not one of those that are read.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with open_regular(path) as file:
        head = file.read(12)
        file.seek(0)
        if not is_video(head):
            return None
        if head.startswith(_EBML):
            return Container("mkv", _cut_elements(file, size))
        return Container("avi", _cut_chunks(file, size)) if head[:4] == b"RIFF" else _atoms(file, size)


def _cut_chunks(file: BinaryIO, size: int) -> bool:
    end = 0
    while len(head := file.read(8)) == 8 and head[:4] == b"RIFF":
        length = struct.unpack("<I", head[4:])[0]
        if length in (0, 0xFFFFFFFF):  # written to a pipe: not stated
            return False
        end += 8 + length + length % 2
        file.seek(end)
    return end - 1 > size


def _atoms(file: BinaryIO, size: int) -> Container:
    end, duration = 0, None
    while len(head := file.read(8)) == 8 and head[4:] in _ATOMS:
        length, start = struct.unpack(">I", head[:4])[0], end
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        end = size if length == 0 else start + max(length, 8)
        if head[4:] == b"moov":
            duration = _duration(file.read(min(end, size) - file.tell()))
        file.seek(end)
    return Container("mp4", end > size, duration)


def _duration(moov: bytes) -> float | None:
    at = moov.find(b"mvhd")
    wide = moov[at + 4 : at + 5] == b"\1"
    fields = moov[at + 24 : at + 36] if wide else moov[at + 16 : at + 24]
    if at < 0 or len(fields) != (12 if wide else 8):
        return None
    scale, duration = struct.unpack(">IQ" if wide else ">II", fields)
    return duration / scale if scale else None


def _cut_elements(file: BinaryIO, size: int) -> bool:
    end = 0
    for _ in range(2):  # the header, the segment
        file.seek(end)
        head = file.read(12)
        if len(head) < 12:
            return True
        bits = 9 - head[4].bit_length()
        length = int.from_bytes(head[4 : 4 + bits], "big") & ((1 << 7 * bits) - 1)
        if bits > 8 or length == (1 << 7 * bits) - 1:  # live recordings do not state a size
            return False
        end += 4 + bits + length
    return end > size
