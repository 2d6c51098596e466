"""Images that were read are known again, also after a kill, until their files change."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy import machine
from deploy.contract import Preprocessing
from deploy.machine import known_files, parallel
from stages.datasets.cleaning import images
from stages.datasets.cleaning.images import Unusable, scan

SIZE = Preprocessing(height=64, width=64)


class Killed(BaseException):
    """Stands for a kill: no handler of errors sees it."""


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(known_files, "SETTLED_NS", -(10**12))
    (tmp_path / "store").mkdir()
    (tmp_path / "images").mkdir()
    made = [tmp_path / "images" / f"{number}.png" for number in range(6)]
    for number, path in enumerate(made):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20 + number, 30, 3), np.uint8)).save(path)
    return made


def scanned(tmp_path: Path, paths: list[Path], *, fingerprints: bool = False) -> list[object]:
    with known_files.kept_in(tmp_path / "store" / "files.json"):
        return list(scan(paths, "read", SIZE, fingerprints=fingerprints))


def decoded(monkeypatch: pytest.MonkeyPatch, *, most: int = 10**9) -> list[Path]:
    """The files that are decoded from now on; the one after `most` is where the kill comes."""
    found: list[Path] = []
    read = images._scan

    def counted(path: Path, preprocessing: Preprocessing, fingerprints: bool) -> object:
        if len(found) == most:
            raise Killed
        found.append(path)
        return read(path, preprocessing, fingerprints)

    monkeypatch.setattr(images, "_scan", counted)
    return found


def test_a_second_scan_decodes_nothing_and_finds_the_same(tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = scanned(tmp_path, paths, fingerprints=True)
    seen = decoded(monkeypatch)
    assert scanned(tmp_path, paths, fingerprints=True) == first
    plain = scanned(tmp_path, paths)
    assert not seen
    assert plain == list(scan(paths, "read", SIZE))  # without a store: all are decoded
    assert seen == paths


def test_after_a_kill_only_the_rest_is_decoded(tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "num_cores", lambda: 1)
    whole = list(scan(paths, "read", SIZE))
    with monkeypatch.context() as patch:
        decoded(patch, most=4)
        with pytest.raises(Killed):
            scanned(tmp_path, paths)
    (book,) = (tmp_path / "store" / ".images").iterdir()
    book.write_text(book.read_text()[:-9])  # the last line was half written
    seen = decoded(monkeypatch)
    assert scanned(tmp_path, paths) == whole
    assert set(paths[4:]) < set(seen) < set(paths)


def test_changed_files_and_others_that_cannot_be_read_are_looked_at_again(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths[1].write_bytes(b"no image")
    assert isinstance(scanned(tmp_path, paths)[1], Unusable)
    Image.new("RGB", (7, 9)).save(paths[3])
    os.utime(paths[4], (time.time() - 9, time.time() - 9))
    seen = decoded(monkeypatch)
    assert getattr(scanned(tmp_path, paths)[3], "width", None) == 7
    assert set(seen) == {paths[1], paths[3], paths[4]}
    seen.clear()
    scanned(tmp_path, paths, fingerprints=True)
    assert seen == paths


def test_images_in_the_store_itself_are_not_kept(tmp_path: Path, paths: list[Path]) -> None:
    inside = tmp_path / "store" / "images"
    paths[0].parent.rename(inside)
    scanned(tmp_path, [inside / path.name for path in paths])
    assert not (tmp_path / "store" / ".images").exists()


def test_processes_find_what_threads_find(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(scan(paths, "read", SIZE, fingerprints=True))
    monkeypatch.setattr(parallel, "FEW", 2)
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    assert list(scan(paths, "read", SIZE, fingerprints=True)) == whole
