"""Images of which few bytes take long: refused before they are decoded, or decoded in a process that is ended with the request's time."""

import io
import itertools
import signal
import struct
import time
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, features

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.prediction import costly, image_files, preprocess
from deploy.serving.decoders import Bounds, Decoders
from deploy.serving.refusals import Expired, Gone

PLAIN = Preprocessing(height=64, width=64)
NOISE = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)


def encoded(kind: str, pixels: np.ndarray = NOISE, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


JPEG, PNG = encoded("JPEG"), encoded("PNG")
TILES = struct.pack("<4sIH", b"II*\0", 8, 1) + struct.pack("<HHII", 324, 4, 4_000_000, 26) + bytes(4)
COSTLY = {
    "filling": JPEG[:2] + b"\xff" * 100_000 + JPEG[2:],
    "filling of other bytes": JPEG[:2] + b"a" * 100_000 + JPEG[2:],
    "markers without content": JPEG[:2] + b"\xff\xd0" * 10_000 + JPEG[2:],
    "segments": JPEG[:2] + b"\xff\xe5\0\x02" * 10_000 + JPEG[2:],
    "comments": JPEG[:2] + b"\xff\xfe\0\x03a" * 10_000 + JPEG[2:],
    "scans": JPEG + b"\xff\xda" * 101,
    "chunks": PNG[:33] + chunk(b"prVt") * 100_000 + PNG[33:],
    "tiles": TILES,
    "strips": TILES.replace(struct.pack("<H", 324), struct.pack("<H", 273)),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_very_many_parts_are_refused_before_anything_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(DataError, match="save it again"):
        image_files.load_image(COSTLY[kind], PLAIN, trusted=False)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow without JPEG 2000")
def test_jpeg_2000_is_read_only_from_those_who_are_trusted() -> None:
    content = encoded("JPEG2000")
    assert image_files.load_image(content, PLAIN).shape == NOISE.shape
    with pytest.raises(DataError, match="not an image that can be read"):
        image_files.load_image(content, PLAIN, trusted=False)


def test_ordinary_photos_are_quick_and_others_are_not() -> None:
    assert costly.look(JPEG).quick
    assert costly.look(encoded("JPEG", progressive=True)).quick
    assert costly.look(PNG).quick
    large = np.zeros((2100, 2100, 3), np.uint8)
    slow = [encoded("JPEG", large), encoded("PNG", large), *(encoded(kind) for kind in ("TIFF", "GIF", "WEBP", "BMP")), b"", b"\xff\xd8"]
    assert not any(costly.look(one).quick for one in slow)


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    made = Decoders(1, 1_000_000)
    yield made
    made.close()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP"])
def test_another_process_gives_the_same_pixels(decoders: Decoders, kind: str) -> None:
    content = encoded(kind)
    tensor, placement = decoders.decode(content, PLAIN, Bounds(time.monotonic() + 600, lambda: False))
    expected, place = preprocess.apply(image_files.load_image(content, PLAIN, trusted=False), PLAIN)
    assert (tensor == expected).all()
    assert placement == place


def test_a_damaged_image_is_one_line(decoders: Decoders) -> None:
    with pytest.raises(DataError, match="image of 100 bytes"):
        decoders.decode(encoded("TIFF")[:100], PLAIN, Bounds(time.monotonic() + 600, lambda: False))


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no way to hold a process up")
@pytest.mark.parametrize("end", ["time", "client"])
def test_decoding_ends_with_the_request(decoders: Decoders, end: str) -> None:
    """The only process is held up in the middle; it is ended, and the next image has a new one."""
    decoders.decode(PNG, PLAIN, Bounds(time.monotonic() + 600, lambda: False))
    (held,) = decoders._started
    held._process.send_signal(signal.SIGSTOP)
    looks = itertools.chain([False] * 4, itertools.repeat(end == "client"))
    with pytest.raises(Expired if end == "time" else Gone):
        decoders.decode(PNG, PLAIN, Bounds(time.monotonic() + (0.5 if end == "time" else 600), lambda: next(looks)))
    assert held._process.returncode == -signal.SIGKILL
    assert decoders.decode(PNG, PLAIN, Bounds(time.monotonic() + 600, lambda: False))[0].shape == (3, 64, 64)


def test_who_waits_for_a_process_waits_no_longer_than_allowed() -> None:
    made = Decoders(1, 1_000_000)
    made._free.get()  # somebody has it
    with pytest.raises(Expired):
        made.decode(PNG, PLAIN, Bounds(time.monotonic() + 0.3, lambda: False))
    assert not made._started
