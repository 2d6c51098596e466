"""Bodies that become more than they are: they count as what they become, and are refused before they do."""

import asyncio
import base64
import gzip
import json
import time
import tracemalloc
import zlib
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deploy.serving.admission import Admission
from deploy.serving.refusals import Busy, Expired, Gone, Invalid, TooLarge

Headers = pytest.importorskip("starlette.datastructures").Headers
pytest.importorskip("uvicorn")
body = pytest.importorskip("deploy.serving.body")
over_http = pytest.importorskip("deploy.serving.oip.over_http")
protocol = pytest.importorskip("deploy.serving.oip.protocol")
text = pytest.importorskip("deploy.serving.text")
work = pytest.importorskip("deploy.serving.work")

MIB = 1 << 20


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_packed_body_counts_as_what_it_becomes(encoding: str) -> None:
    plain = bytes(6 * MIB)
    packed = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
    admission = Admission(room=4, max_bytes=10 * MIB)
    with admission.claim() as one, admission.claim() as other:
        assert body.unpack(packed, encoding, body.Limits(8 * MIB, 1.0, one.hold)) == plain
        assert admission.bytes == len(plain)
        with pytest.raises(TooLarge):
            body.unpack(packed, encoding, body.Limits(MIB, 1.0, other.hold))
        with pytest.raises(Busy):
            body.unpack(packed, encoding, body.Limits(8 * MIB, 1.0, other.hold))
    assert admission.bytes == 0


def test_bytes_that_a_thread_finds_after_its_client_has_gone_are_not_kept() -> None:
    admission = Admission(room=4, max_bytes=10)
    with admission.claim() as one:
        pass
    with pytest.raises(Gone):
        one.hold(5)
    assert admission.bytes == 0


def test_a_request_whose_time_is_over_gets_no_turn_though_one_is_free() -> None:
    late = work.Work(cast("Any", None), cast("Any", None), 0.0)
    with pytest.raises(Expired), late.turn():
        pass


@pytest.mark.parametrize(
    "content",
    [
        b'{"images": [' + b"{}," * 20_000 + b"{}]}",
        b"[" * 20_000,
        b'{"images": [' + b'"",' * 20_000 + b'""]}',
        b"[" + b"0," * 20_000 + b"0]",
    ],
    ids=["objects", "lists", "texts", "numbers"],
)
def test_json_of_many_small_values_is_refused_unparsed(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("parsed"))
    with pytest.raises(Invalid, match="more than 10,000"):
        text.images(content, 16, lambda _: None)


PICTURE = base64.b64encode(bytes(range(256)) * 8192)
LONG_TEXTS = {
    "JSON": b'{"image": "%s"}' % PICTURE,
    "list": b'{"images": ["%s", "%s"]}' % (PICTURE, PICTURE),
    "other spellings of signs": b'{"image": "%s"}' % PICTURE.replace(b"+", b"\\u002b").replace(b"/", b"\\/"),
    "line breaks": b'{"image": "%s"}' % b"\\n".join(PICTURE[start : start + 76] for start in range(0, len(PICTURE), 76)),
    "words of one letter": b'{"image": "%s"}' % b" ".join(PICTURE[start : start + 1] for start in range(len(PICTURE))),
    "byte order mark": b"\xef\xbb\xbf" + b'{"image": "%s"}\n' % PICTURE,
    "address": b"data:image/png;base64," + PICTURE,
    "encoded address": b"data:image/png;base64," + PICTURE.replace(b"+", b"%2B").replace(b"/", b"%2f"),
}


@pytest.mark.parametrize("kind", LONG_TEXTS)
def test_text_takes_no_more_memory_than_is_held_for_it(kind: str) -> None:
    content = LONG_TEXTS[kind]
    admission = Admission(room=4, max_bytes=100 * len(content))
    peaks = []

    with admission.claim() as claim:

        def hold(count: int) -> None:
            claim.hold(count)
            peaks.append(admission.bytes)

        tracemalloc.start()
        try:
            files = text.images(content, 16, hold)
            taken = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert {len(file.content) for file in files} == {2 * MIB}
        assert admission.bytes == sum(len(file.content) for file in files)
    assert taken < 1.05 * max(peaks)


@pytest.mark.parametrize(
    "content",
    [
        b'{"image": "\xf0\x9f\x98\x80%s"}' % PICTURE,
        b'{"image": "\\ud83d\\ude00%s"}' % PICTURE,
        b'{"image": "%s"}' % (b"\\u0041" * MIB),
        "data:image/png;base64,\u00e4".encode(),
    ],
    ids=["letter of four bytes", "written as a number", "all written as numbers", "in an address"],
)
def test_letters_that_base64_does_not_have_are_refused_unparsed(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them makes the whole text four times as long."""
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("parsed"))
    with pytest.raises(Invalid, match=r"letters|backslashes"):
        text.images(content, 16, lambda _: None)


def test_whether_a_body_is_text_is_told_by_its_start() -> None:
    """A pattern that looked at all of it would take hours for this one, on the thread that all requests share."""
    assert not text.is_text(b"\xff\xd8" + b"a" * 64 * MIB)
    body = b"a" * 64 + b"\n" * 32 * MIB + b"!"
    started = time.process_time()
    assert text.is_text(body)
    assert time.process_time() - started < 0.1


def test_small_bodies_find_room_beside_large_ones() -> None:
    admission = Admission(room=4, max_bytes=1600, spare_bytes=320)
    with admission.claim("one") as large, admission.claim("other") as small:
        with pytest.raises(Busy):
            large.hold(1281)
        large.hold(1280)
        with pytest.raises(Busy):
            small.hold(21)
        small.hold(20)
        large.hold(-1280)


def test_a_packed_body_no_longer_counts_once_it_is_unpacked() -> None:
    """Otherwise JSON that comes packed would never fit."""
    plain = bytes(MIB)
    packed = gzip.compress(plain, 0)
    sent = [{"type": "http.request", "body": packed, "more_body": False}]

    async def receive() -> Any:
        return sent.pop()

    request = SimpleNamespace(headers=Headers({"content-encoding": "gzip"}), receive=receive)
    admission = Admission(room=4, max_bytes=10 * MIB)
    with admission.claim() as claim:
        assert asyncio.run(body.read(cast("Any", request), body.Limits(8 * MIB, 60.0, claim.hold))) == plain
        assert admission.bytes == MIB


def test_a_body_does_not_wait_for_its_turn_longer_than_its_request_has_time() -> None:
    async def late() -> None:
        limits = body.Limits(8, 0.1, lambda _: None)
        await limits.turns.acquire()
        await body._in_turn(limits, int)

    with pytest.raises(Expired, match="before its body was unpacked"):
        asyncio.run(late())


def test_numbers_that_are_parsed_one_by_one_are_limited_and_one_image_always_fits() -> None:
    def model(side: int) -> Any:
        return SimpleNamespace(contract=SimpleNamespace(preprocessing=SimpleNamespace(height=side, width=side)))

    assert protocol.most_numbers(model(32), 16) == 16 * 3 * 32 * 32
    assert protocol.most_numbers(model(640), 16) == 2_000_000
    assert protocol.most_numbers(model(2048), 16) == 3 * 2048 * 2048


@pytest.mark.parametrize("data", ["[],", "{},", "0,"])
def test_json_tensors_count_as_what_they_become(data: str) -> None:
    size = SimpleNamespace(height=16, width=16)
    model = SimpleNamespace(contract=SimpleNamespace(preprocessing=size), batcher=SimpleNamespace(seconds_each=0.0))
    admission = Admission(room=4, max_bytes=1000)
    with admission.claim() as claim:
        given = work.Work(cast("Any", model), claim, time.monotonic() + 600)
        content = b'{"inputs": [{"data": [' + data.encode() * 20_000 + b"0]}]}"
        with pytest.raises(TooLarge, match="are parsed; send the tensor as binary data"):
            over_http.parse(given, content, None, 2)
        with pytest.raises(Busy):
            over_http.parse(given, b'{"inputs": [{"data": [' + b"0," * 10_200 + b"0]}]}", None, 2)


def test_a_timeout_of_any_length_is_a_number() -> None:
    assert protocol.timeout_ms({"timeout": 10**400}) == protocol.timeout_ms({"timeout": 10**4000}) > 1e9
