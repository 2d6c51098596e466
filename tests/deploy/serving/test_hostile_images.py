"""Images of which few bytes take long: refused before they are decoded, or decoded in a process that is ended with the request's time."""

import contextlib
import io
import itertools
import json
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hostile_samples import chunk, png
from PIL import Image, features
from waiting import PATIENCE, join, until

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.prediction import costly, decoder, image_files, preprocess
from deploy.serving.clients import Rotation
from deploy.serving.decoders import Bounds, Decoders
from deploy.serving.logs import Log
from deploy.serving.refusals import Busy, Expired, Gone

PLAIN = Preprocessing(height=64, width=64)
NOISE = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)


def encoded(kind: str, pixels: np.ndarray = NOISE, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


JPEG, PNG = encoded("JPEG"), encoded("PNG")
BIG_TILES = struct.pack("<4sHHQQ", b"II+\0", 8, 0, 16, 1) + struct.pack("<HHQQ", 324, 16, 4_000_000, 36) + bytes(8)
TILES = struct.pack("<4sIH", b"II*\0", 8, 1) + struct.pack("<HHII", 324, 4, 4_000_000, 26) + bytes(4)
COSTLY = {
    "filling": JPEG[:2] + b"\xff" * 100_000 + JPEG[2:],
    "filling of other bytes": JPEG[:2] + b"a" * 100_000 + JPEG[2:],
    "markers without content": JPEG[:2] + b"\xff\xd0" * 10_000 + JPEG[2:],
    "segments": JPEG[:2] + b"\xff\xe5\0\x02" * 10_000 + JPEG[2:],
    "comments": JPEG[:2] + b"\xff\xfe\0\x03a" * 10_000 + JPEG[2:],
    "scans": JPEG[:-2] + b"\xff\xda\0\x02" * 101 + JPEG[-2:],
    "chunks": PNG[:33] + chunk(b"prVt") * 100_000 + PNG[33:],
    "tiles": TILES,
    "tiles in BigTIFF": BIG_TILES,
    "tags": struct.pack("<4sIH", b"II*\0", 8, 60_000) + bytes(100),
    "strips": TILES.replace(struct.pack("<H", 324), struct.pack("<H", 273)),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_very_many_parts_are_refused_before_anything_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(DataError, match="save it again"):
        image_files.load_image(COSTLY[kind], PLAIN, trusted=False)


def test_what_follows_a_photo_in_its_file_counts_as_no_scans() -> None:
    """Phones append a film to a photo, in which any bytes may stand."""
    film = (b"\xff\xda" + bytes(1000)) * 200
    assert image_files.load_image(JPEG + film, PLAIN, trusted=False).shape == NOISE.shape
    head, scan = JPEG.index(b"\xff\xda"), JPEG[JPEG.index(b"\xff\xda") : -2]
    many = JPEG[:head] + b"\xff\xe5\0\x04\xff\xd9" + (scan + bytes(1000)) * 120 + b"\xff\xd9"  # the end of the picture, within a segment
    with pytest.raises(DataError, match="scans; save it again"):
        image_files.load_image(many, PLAIN, trusted=False)


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
    hidden = JPEG[:2] + b"\xff\x00\x00\x20" + bytes(30) + JPEG[2:]  # readers disagree on whether a segment begins here
    twice = JPEG[:2] + JPEG[JPEG.index(b"\xff\xc0") :][:19] + JPEG[2:]
    assert not costly.look(hidden).quick
    assert not costly.look(twice).quick
    assert not costly.look(PNG[:8] + chunk(b"prVt", bytes(8)) + PNG[8:]).quick
    slow = [encoded("JPEG", large), encoded("PNG", large), *(encoded(kind) for kind in ("TIFF", "GIF", "WEBP", "BMP")), b"", b"\xff\xd8"]
    assert not any(costly.look(one).quick for one in slow)


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    made = Decoders(1, 1_000_000, 64, Log(io.StringIO()))
    yield made
    made.close()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP"])
def test_another_process_gives_the_same_pixels(decoders: Decoders, kind: str) -> None:
    content = encoded(kind)
    tensor, placement = decoders.decode(content, PLAIN, Bounds(time.monotonic() + 600, lambda: False))
    expected, place = preprocess.apply(image_files.load_image(content, PLAIN, trusted=False), PLAIN)
    assert (tensor == expected).all()
    assert placement == place


@pytest.mark.skipif(decoder._memory() is None, reason="the system does not tell how much memory a process has")
@pytest.mark.parametrize(("white", "most"), [(65535, 30), (4095, 55)])
def test_a_process_that_decodes_has_no_more_memory_than_images_of_the_largest_size_need(white: int, most: int) -> None:
    """Taken all at once, since what an image takes differs between versions of Pillow."""
    script = (
        "from deploy.contract import Preprocessing\nfrom deploy.prediction import decoder\n"
        f"decoder._limit_memory(decoder._memory(), 10_000_000, 1_000_000, Preprocessing(white={white}))\n"
        f"half = bytearray(10_000_000 * {most} // 2)\nprint('half', flush=True)\nbytearray(10_000_000 * {most})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.stdout == "half\n"
    assert "MemoryError" in done.stderr


@pytest.mark.parametrize("color", [0, 2, 6], ids=["gray", "color", "alpha"])
@pytest.mark.parametrize("white", [65535, 4095])
@pytest.mark.slow
def test_the_largest_images_are_decoded_within_that_memory(color: int, white: int) -> None:
    preprocessing = Preprocessing(height=64, width=64, white=white)
    made = Decoders(1, 40_000_000, 64, Log(io.StringIO()))
    try:
        tensor, place = made.decode(png(6272, 16, color), preprocessing, Bounds(time.monotonic() + 600, lambda: False))
    finally:
        made.close()
    assert (tensor.shape, place.width) == ((3, 64, 64), 6272)


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
    until(lambda: held._process.returncode == -signal.SIGKILL, "the process to end")
    assert decoders.decode(PNG, PLAIN, Bounds(time.monotonic() + 600, lambda: False))[0].shape == (3, 64, 64)


def test_a_request_does_not_wait_until_its_process_has_ended_but_the_next_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that frees much memory on a busy machine takes its time."""
    made = Decoders(1, 1_000_000, 64, Log(io.StringIO()))
    free = threading.Event()
    try:
        made.decode(PNG, PLAIN, Bounds(time.monotonic() + 600, lambda: False))
        (held,) = made._started
        end = held.end
        monkeypatch.setattr(held, "end", lambda: free.wait(PATIENCE) and end())
        held._process.send_signal(signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(Expired):
                made.decode(PNG, PLAIN, Bounds(time.monotonic() + 0.3, lambda: False))
        assert made._started == {held}
        free.set()
        assert made.decode(PNG, PLAIN, Bounds(time.monotonic() + 600, lambda: False))[0].shape == (3, 64, 64)
    finally:
        free.set()
        made.close()


def test_who_waits_for_a_process_waits_no_longer_than_allowed() -> None:
    made = Decoders(1, 1_000_000, 64, Log(io.StringIO()))
    with made._rotation.place("another", lambda: 1.0), pytest.raises(Expired):
        made.decode(PNG, PLAIN, Bounds(time.monotonic() + 0.3, lambda: False))
    assert not made._started


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no way to end a process from outside")
def test_a_process_that_was_ended_from_outside_is_replaced() -> None:
    """As the kernel does where memory runs out: between two images, and while one is decoded."""
    lines = io.StringIO()
    made = Decoders(1, 1_000_000, 64, Log(lines))
    long = Bounds(time.monotonic() + 600, lambda: False)
    try:
        made.decode(PNG, PLAIN, long)
        (first,) = made._started
        first._process.kill()
        first._process.wait()
        assert made.decode(PNG, PLAIN, long)[0].shape == (3, 64, 64)
        (second,) = made._started
        assert second is not first
        second._process.send_signal(signal.SIGSTOP)
        threading.Timer(0.3, second._process.kill).start()
        assert made.decode(PNG, PLAIN, long)[0].shape == (3, 64, 64)
    finally:
        made.close()
    logged = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(one["event"], one["code"]) for one in logged] == [("decoder ended", -signal.SIGKILL)]


def test_no_more_processes_are_started_than_are_needed() -> None:
    made = Decoders(4, 1_000_000, 64, Log(io.StringIO()))
    try:
        for _ in range(3):
            made.decode(PNG, PLAIN, Bounds(time.monotonic() + 600, lambda: False))
        assert len(made._started) == 1
    finally:
        made.close()


def test_where_no_process_can_be_started_the_client_may_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("deploy.serving.decoders.subprocess.Popen", refuse)
    made = Decoders(1, 1_000_000, 64, Log(io.StringIO()))
    for _ in range(2):  # the place is given back
        with pytest.raises(Busy, match="Resource temporarily unavailable"):
            made.decode(PNG, PLAIN, Bounds(time.monotonic() + 600, lambda: False))


def waiting(rotation: Rotation, client: str, order: list[str]) -> threading.Thread:
    """A thread that waits for a place, and has begun to."""

    def wait() -> None:
        with rotation.place(client, lambda: PATIENCE):
            order.append(client)

    before = len(rotation._waiting)
    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: len(rotation._waiting) == before + 1, "a thread in the queue")
    return thread


def test_a_client_waits_for_one_image_of_each_other_client_and_not_for_all() -> None:
    rotation = Rotation(1, most_waiting=8, most_per_client=4)
    order: list[str] = []
    with rotation.place("many", lambda: PATIENCE):
        threads = [waiting(rotation, client, order) for client in ("many", "many", "many", "one", "two")]
    for thread in threads:
        join(thread)
    assert order == ["many", "one", "two", "many", "many"]


def test_a_queue_for_places_is_bounded_in_all_and_for_each_client() -> None:
    rotation = Rotation(1, most_waiting=3, most_per_client=2)
    order: list[str] = []
    with rotation.place("a", lambda: PATIENCE):
        threads = [waiting(rotation, "a", order), waiting(rotation, "a", order)]
        with pytest.raises(Busy), rotation.place("a", lambda: PATIENCE):
            pass
        threads.append(waiting(rotation, "b", order))
        with pytest.raises(Busy), rotation.place("c", lambda: PATIENCE):
            pass
    for thread in threads:
        join(thread)
    with rotation.place("c", lambda: 0.0):  # all have given theirs back
        pass


def test_a_place_that_comes_as_its_client_gives_up_is_passed_on() -> None:
    rotation = Rotation(1, most_waiting=3, most_per_client=2)
    holder = contextlib.ExitStack()
    holder.enter_context(rotation.place("a", lambda: PATIENCE))

    def left() -> float:
        holder.close()  # frees the place between the two looks
        raise Expired("late")

    with pytest.raises(Expired), rotation.place("b", left):
        pass
    with rotation.place("c", lambda: 0.0):
        pass
