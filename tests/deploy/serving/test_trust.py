"""What a server says of signatures, and which bundles it takes over."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import artifact_samples as samples
import pytest
from serving_samples import Running

pytest.importorskip("uvicorn")
pytest.importorskip("model_signing")
pytest.importorskip("OpenSSL")
from signing_samples import KeyPair, pair, signed

from deploy.bundles.bundle import Bundle
from deploy.bundles.manifest import MANIFEST
from deploy.bundles.trust import Trust
from deploy.errors import Untrusted
from deploy.machine import files


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return pair(tmp_path_factory.mktemp("key"), "key")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def folder(bundle: Bundle, key: KeyPair, tmp_path: Path) -> Path:
    return signed(bundle, tmp_path / "cells", key)


@pytest.fixture
def running(folder: Path, key: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server that trusts the key, whose private copies are in `scratch`."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    server = Running(folder, trust=Trust.of([str(key.public)]))
    yield server
    server.stop()
    assert not list((tmp_path / "scratch").iterdir())


def said(running: Running, *events: str) -> list[str]:
    return [line["event"] for line in running.log() if line["event"] in events]


UNCHECKED = ("unsigned bundle", "signature not checked")


@pytest.mark.parametrize(("is_signed", "event"), [(False, "unsigned bundle"), (True, "signature not checked")])
def test_that_nothing_is_checked_is_said_once(bundle: Bundle, folder: Path, is_signed: bool, event: str) -> None:
    server = Running(folder if is_signed else bundle.root)
    try:
        server.service.load()
    finally:
        server.stop()
    assert said(server, *UNCHECKED) == [event]
    assert len(said(server, "serving")) == 2


def test_the_manifest_s_sha256_is_logged_and_the_signature_not_mentioned(running: Running, folder: Path) -> None:
    (line,) = (line for line in running.log() if line["event"] == "serving")
    assert line["manifest_sha256"] == files.sha256(folder / MANIFEST)
    assert not said(running, *UNCHECKED)


def test_a_swap_takes_only_what_is_signed(running: Running, folder: Path, bundle: Bundle, key: KeyPair, tmp_path: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    samples.resign(folder, {**manifest, "description": "evil"})
    with pytest.raises(Untrusted, match="is not the file that was signed"):
        running.service.load()
    with running.service.lease() as model:
        assert (model.version, model.bundle.manifest.description) == (1, "")
    shutil.rmtree(folder)
    signed(bundle, folder, key)
    running.service.load()
    with running.service.lease() as model:
        assert model.version == 2
    assert len(list((tmp_path / "scratch").iterdir())) == 1  # of the bundle that is served


def test_a_pinned_server_takes_over_no_other_bundle(folder: Path, key: KeyPair) -> None:
    server = Running(folder, trust=Trust(sha256=files.sha256(folder / MANIFEST)))
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        samples.resign(folder, {**manifest, "description": "newer"})
        with pytest.raises(Untrusted, match="--sha256 allows"):
            server.service.load()
    finally:
        server.stop()
    assert not said(server, *UNCHECKED)
