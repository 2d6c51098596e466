"""Bodies that become more than they are: they count as what they become, and are refused before they do."""

import gzip
import json
import time
import zlib
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deploy.serving.admission import Admission
from deploy.serving.refusals import Busy, Expired, Gone, Invalid, TooLarge

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


@pytest.mark.parametrize("data", ["[],", "{},", "0,"])
def test_json_tensors_count_as_what_they_become(data: str) -> None:
    size = SimpleNamespace(height=16, width=16)
    model = SimpleNamespace(contract=SimpleNamespace(preprocessing=size), batcher=SimpleNamespace(seconds_each=0.0))
    admission = Admission(room=4, max_bytes=1000)
    with admission.claim() as claim:
        given = work.Work(cast("Any", model), claim, time.monotonic() + 600)
        content = b'{"inputs": [{"data": [' + data.encode() * 20_000 + b"0]}]}"
        with pytest.raises(TooLarge, match="need at most"):
            over_http.parse(given, content, None, 2)
        with pytest.raises(Busy):
            over_http.parse(given, b'{"inputs": [{"data": [' + b"0," * 10_200 + b"0]}]}", None, 2)


def test_a_timeout_of_any_length_is_a_number() -> None:
    assert protocol.timeout_ms({"timeout": 10**400}) == protocol.timeout_ms({"timeout": 10**4000}) > 1e9
