"""`edgedistill init` on data that is unusual: how files are decoded, what is doubtful, what is missing, very many files."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from places import ROOT

from pipeline.cli import main
from pipeline.config import load
from pipeline.init import networks, sample, speed
from stages.datasets.cleaning import images

Paint = Callable[[NDArray[np.uint8]], Image.Image]
SIDE = 64


def noise(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 255, (SIDE, SIDE), np.uint8)


def gray(values: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(values)


def twelve_bits(values: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(values.astype(np.uint16) * 16)


def transparent(values: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.stack([values, values, values, np.zeros_like(values)], axis=-1))


def write_set(root: Path, *, count: int = 12, paint: Paint = gray, boxes: tuple[tuple[int, ...], ...] = ((0, 5, 5, 20, 20),)) -> Path:
    """COCO's layout with one split, train; a box is its class and x, y, width, height, moved by a few px in each image."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    for number in range(count):
        paint(noise(number)).save(root / "images" / f"{number}.png")
    write_annotations(root, count, boxes)
    return root


def write_annotations(root: Path, count: int, boxes: tuple[tuple[int, ...], ...]) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in range(count)]
    rows = [
        {
            "id": n * len(boxes) + index,
            "image_id": n,
            "category_id": kind,
            "bbox": [x + n % 13, y + n % 7, w, h],
            "area": w * h,
            "iscrowd": 0,
        }
        for n in range(count)
        for index, (kind, x, y, w, h) in enumerate(boxes)
    ]
    categories = [{"id": kind, "name": f"class{kind}"} for kind in sorted({box[0] for box in boxes})]
    content = {"images": images, "annotations": rows, "categories": categories}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(autouse=True)
def _without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_measure", lambda *_: None)
    monkeypatch.setattr(networks, "weights_here", dict)


class Started:
    """`init` on a folder: its exit code, the file that it wrote, and its lines."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.file = root.parent / "first.yaml"
        self.code = main(["init", str(root), "--out", str(self.file), "--device", "cpu", *arguments])
        self.out, self.err = capsys.readouterr()

    @property
    def text(self) -> str:
        return self.file.read_text(encoding="utf-8")

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.text)["data"]
        return found


class TestDecoding:
    def test_plain_images_need_no_field(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        done = Started(write_set(tmp_path / "cells"), capsys)
        assert done.code == 0
        assert not {"white", "alpha", "max_pixels"} & set(done.data["preprocessing"])

    def test_12_bits_in_16_bit_files_set_white(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        done = Started(write_set(tmp_path / "cells", paint=twelve_bits), capsys)
        assert done.code == 0
        assert done.data["preprocessing"]["white"] == 4095
        assert "12-bit data, so 4095 is white" in done.text

    def test_a_picture_under_full_transparency_sets_alpha(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        done = Started(write_set(tmp_path / "cells", paint=transparent), capsys)
        assert done.code == 0
        assert done.data["preprocessing"]["alpha"] == "ignore"
        assert "12 of 12 images looked at are transparent all over" in done.text

    def test_images_above_the_limit_raise_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sample, "MAX_PIXELS", SIDE * SIDE - 1)
        done = Started(write_set(tmp_path / "cells"), capsys)
        assert done.code == 0
        assert done.data["preprocessing"]["max_pixels"] == SIDE * SIDE

    def test_only_a_sample_is_decoded(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        decoded: list[str] = []
        scan = images.scan

        def counted(paths: Any, *arguments: Any, **more: Any) -> Any:
            decoded.extend(path.name for path in paths)
            return scan(paths, *arguments, **more)

        monkeypatch.setattr(sample, "MOST_DECODED", 5)
        monkeypatch.setattr(images, "scan", counted)
        assert Started(write_set(tmp_path / "cells", count=40), capsys).code == 0
        assert set(decoded) == {"0.png", "8.png", "16.png", "24.png", "32.png"}


class TestDoubt:
    def half(self, root: Path) -> Path:
        write_set(root, count=20)
        for number in range(0, 20, 2):
            (root / "images" / f"{number}.png").unlink()
        return root

    def test_what_run_would_refuse_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        done = Started(self.half(tmp_path / "cells"), capsys)
        assert done.code == 3
        assert done.err.count("\n") == 1
        assert "10 of 18 images are left out or assumed (missing image 10)" in done.err  # a fifth of those that exist is held out
        assert done.err.endswith("pass --max-doubtful 0.56 to go on\n")
        assert not done.file.exists()

    def test_what_is_allowed_is_written_and_run_goes_on(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = Started(self.half(tmp_path / "cells"), capsys, "--max-doubtful", "0.56")
        assert done.code == 0
        assert done.data["max_doubtful"] == 0.56
        assert "train: left out: missing image: 10 of 20 images" in done.out
        monkeypatch.chdir(tmp_path)
        assert main(["run", str(done.file), "--until", "prepare"]) == 0

    @pytest.mark.parametrize("share", ["2", "-0.1", "nan"])
    def test_a_share_that_is_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: str) -> None:
        done = Started(write_set(tmp_path / "cells"), capsys, "--max-doubtful", share)
        assert done.code == 2
        assert "allowed: 0 to 1" in done.err


class TestNms:
    """Two classes; whether their boxes in one image overlap."""

    def test_objects_of_different_classes_that_never_overlap(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        done = Started(write_set(tmp_path / "cells", boxes=((1, 2, 2, 20, 20), (2, 25, 25, 20, 20))), capsys)
        assert load(done.file).export.nms == "agnostic"

    def test_objects_of_different_classes_that_overlap(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        done = Started(write_set(tmp_path / "cells", boxes=((1, 2, 2, 30, 30), (2, 4, 4, 30, 30))), capsys)
        assert load(done.file).export.nms == "per_class"


class TestLittle:
    def test_images_without_any_label(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = tmp_path / "photos"
        root.mkdir()
        for number in range(5):
            gray(noise(number)).save(root / f"{number}.jpg")
        done = Started(root, capsys)
        assert done.code == 3
        assert done.err.count("\n") == 1
        assert str(root) in done.err

    def test_12_images_of_one_class_give_a_file_that_works(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = Started(write_set(tmp_path / "cells"), capsys)
        assert done.code == 0
        assert load(done.file).data.val_share == 0.2
        monkeypatch.chdir(tmp_path)
        assert main(["run", str(done.file), "--until", "prepare"]) == 0


class TestPlaces:
    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc, in which nobody can create a file")
    def test_a_folder_that_refuses_everybody(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = write_set(tmp_path / "cells")
        assert main(["init", str(root), "--out", "/proc/first.yaml", "--device", "cpu"]) == 4
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "/proc/first.yaml" in err

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = write_set(tmp_path / "cells")
        (tmp_path / "file").touch()
        assert main(["init", str(root), "--out", str(tmp_path / "file" / "first.yaml"), "--device", "cpu"]) == 2
        assert f"{tmp_path / 'file'}: no such folder" in capsys.readouterr().err


WITHOUT_TORCH = """\
import sys
from importlib.machinery import PathFinder


class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in ("torch", "torchvision", "timm", "transformers", "pandas")
        return None if hidden else super().find_spec(name, path, target)


sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
from pipeline.cli import main

sys.exit(main(sys.argv[1:]))
"""


def test_without_torch_the_speed_is_estimated(tmp_path: Path) -> None:
    root, out = write_set(tmp_path / "cells"), tmp_path / "first.yaml"
    command = [sys.executable, "-P", "-c", WITHOUT_TORCH, "init", str(root), "--out", str(out), "--preview"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "torch is not installed" in out.read_text(encoding="utf-8")
    assert load(out).device == "auto"


@pytest.mark.slow
def test_100_000_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_set(tmp_path / "cells", count=4)
    for number in range(4, 100_000):
        os.link(root / "images" / f"{number % 4}.png", root / "images" / f"{number}.png")
    write_annotations(root, 100_000, ((0, 5, 5, 20, 20), (1, 30, 25, 15, 25)))
    done = Started(root, capsys)
    assert done.code == 0
    assert "100000 train images" in done.out
