"""Images that were read are known again, also after a kill, until their files change."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy import machine
from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.machine import known_files, parallel
from stages.config import DataConfig
from stages.datasets.cleaning import images
from stages.datasets.cleaning.images import Unusable, scan
from stages.datasets.tables import rows
from stages.prepare import prepare

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


@pytest.mark.parametrize("few", [2, 200])
def test_images_that_were_begun_are_found_without_decoding_them_again(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    whole = list(scan(paths, "read", SIZE))
    gone = tmp_path / "images" / "gone.png"
    monkeypatch.setattr(parallel, "FEW", few)
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    with known_files.kept_in(tmp_path / "store" / "files.json"), images.begun([[*paths[1:3], gone], paths[4:]], SIZE) as ahead:
        ahead.finish()
        monkeypatch.setattr(parallel, "FEW", 200)
        seen = decoded(monkeypatch)
        asked = [*paths, paths[3], paths[4]]  # COCO files may list an image twice
        assert list(scan(asked, "read", SIZE, ahead=ahead)) == [*whole, whole[3], whole[4]]
    assert seen == [paths[0], paths[3]]
    assert scanned(tmp_path, paths) == whole  # all are in the journal
    assert seen == [paths[0], paths[3]]


def test_an_error_while_images_are_decoded_ends_their_processes(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "FEW", 2)
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    with pytest.raises(DataError, match="as it must"), images.begun([paths * 100], SIZE):
        raise DataError("as it must")
    assert not multiprocessing.active_children()


def test_all_cores_prepare_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, polygon = tmp_path / "data", [[10.5, 10, 30, 10, 30, 20.125]]
    for split, names in (("train", ["a.png", "b.png", "gone.png", "B.PNG"]), ("val", ["c.png"])):
        images = [{"id": number, "file_name": name, "width": 64, "height": 48} for number, name in enumerate(names)]
        for name in {*names} - {"gone.png", "B.PNG"}:
            (root / split).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48)).save(root / split / name)
        boxes = [
            {"id": 9 * image + one, "image_id": image, "category_id": 1, "bbox": [one, 10, 20.25, 9], "segmentation": polygon}
            for image in range(len(names))
            for one in range(image, 9)
        ]
        (root / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    config = DataConfig.model_validate({"dataset": "coco", "root": str(root), "max_doubtful": 1})
    made = []
    for cores, few, block in ((1, 200, 256), (2, 1, 2)):
        monkeypatch.setattr(machine, "num_cores", lambda cores=cores: cores)
        monkeypatch.setattr(parallel, "FEW", few)
        monkeypatch.setattr(rows, "_BLOCK", block)
        monkeypatch.setattr(rows, "_IN_MEMORY", block)
        out = tmp_path / f"{cores} cores"
        out.mkdir()
        prepare(out, config)
        made.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert made[0] == made[1]
    assert len(json.loads(made[1][Path("annotations/train.json")])["annotations"]) == 17
