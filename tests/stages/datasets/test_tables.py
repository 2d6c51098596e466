"""The prepared arrays have what the COCO files have, and no process of a training parses these."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from deploy.errors import ArtifactError, DataError
from deploy.prediction import masks
from deploy.prediction.detections import by_image, corners
from stages import artifacts
from stages.artifacts import Dataset
from stages.config import DataConfig
from stages.prepare import prepare
from stages.training.batches.loader import TrainingImages

SIZES = ((30, 40), (50, 20), (24, 24))
HALF = np.zeros((30, 40), np.bool_)
HALF[5:20, 3:31] = True


def annotation(number: int, image: int, **more: Any) -> dict[str, Any]:
    box = [1.1 + number, 2.3, 7.7, 9.013]
    return {"id": number, "image_id": image, "category_id": 3 + number % 2, "bbox": box, "iscrowd": 0, "area": 60.0} | more


def uncompressed(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat, prepend=False, append=False))
    return {"size": list(mask.shape), "counts": np.diff(ends, prepend=0, append=flat.size).tolist()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Objects in an order that is not that of the images, with every kind of mask, a crowd, and an image with a name of its own."""
    root = tmp_path_factory.mktemp("coco")
    polygons = [[2.25, 3.1, 20, 3.1, 20, 15.7], [22, 4, 30.3, 4, 30.3, 9.9, 25, 12]]
    found = [
        annotation(7, 2),
        annotation(1, 1, segmentation=polygons),
        annotation(2, 3, segmentation=[polygons[0]]),
        annotation(3, 1, segmentation=masks.encode(HALF, (30, 40))),
        annotation(4, 1, segmentation=uncompressed(HALF)),
        annotation(5, 1, iscrowd=1, segmentation=uncompressed(HALF)),
        annotation(6, 2, bbox=[0.1, 0.2, 19.3, 0.7]),
    ]
    names = ["ä b/1.png", "2.png", "3.png"]
    images = [
        {"id": i, "file_name": name, "height": size[0], "width": size[1]} for i, name, size in zip((1, 2, 3), names, SIZES, strict=True)
    ]
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        for name, (height, width) in zip(names, SIZES, strict=True):
            file = root / "images" / split / name
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(height + (split == "val")).integers(0, 255, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(file)
        coco = {"images": images, "annotations": found, "categories": [{"id": 4, "name": "b"}, {"id": 3, "name": "a"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
    (root / "out").mkdir()
    options = {"preprocessing": {"height": 64, "width": 64}, "boxes": "xywh", "max_doubtful": 1}
    return prepare(root / "out", DataConfig.model_validate({"dataset": "coco", "root": str(root), **options}))


def test_a_table_has_the_images_and_objects_of_the_coco_file(data: Dataset) -> None:
    coco = json.loads(data.annotations("train").read_text())
    table, outlines = data.table("train"), data.table("train").outlines()
    objects = by_image((one for one in coco["annotations"] if not one["iscrowd"]), (image["id"] for image in coco["images"]))
    assert [table.name(index) for index in range(len(table))] == [image["file_name"] for image in coco["images"]]
    for index, (image, rows) in enumerate(zip(coco["images"], objects.values(), strict=True)):
        expected = torch.tensor([corners(row["bbox"]) for row in rows], dtype=torch.float32).reshape(-1, 4)
        assert torch.equal(torch.from_numpy(table.corners(index)), expected)
        assert table.labels_of(index).tolist() == [row["category_id"] - 3 for row in rows]
        size = image["height"], image["width"]
        for number, row in zip(range(table.objects(index).start, table.objects(index).stop), rows, strict=True):
            found = outlines.segmentation(number, table.sizes[index])
            assert bool(found) == bool(row.get("segmentation"))
            if found:
                assert np.array_equal(masks.decode(found, size), masks.decode(row["segmentation"], size))


def test_a_training_parses_no_annotations_and_reads_masks_only_if_it_learns_them(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Any:
        raise AssertionError(f"{path} was parsed")

    monkeypatch.setattr(artifacts, "read_json", refuse)
    monkeypatch.setattr("stages.measurement.splits.read_json", refuse)
    with monkeypatch.context() as patch:
        patch.setattr("stages.datasets.tables.outlines.read", refuse)
        assert TrainingImages(data, tiny.schedule(), 0)[(0, 1)][1].masks is None
        with pytest.raises(AssertionError, match="was parsed"):
            TrainingImages(data, tiny.schedule(), 0, masks=True)
    found = TrainingImages(data, tiny.schedule(), 0, masks=True)[(0, 0)][1].masks
    assert found is not None
    assert len(found) == 3


def test_arrays_are_mapped_not_read(data: Dataset) -> None:
    table = data.table("train")
    assert all(isinstance(column, np.memmap) for column in (table.names, table.boxes, table.labels, table.outlines().points))


def test_a_damaged_table_is_refused_with_what_to_do(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "artifact.json").write_bytes((data.root / "artifact.json").read_bytes())
    copy = Dataset(tmp_path)
    with pytest.raises(ArtifactError, match=f"delete {tmp_path} and run again"):
        copy.table("train")
    (tmp_path / "tables" / "train").mkdir(parents=True)
    for file in (data.root / "tables" / "train").iterdir():
        (tmp_path / "tables" / "train" / file.name).write_bytes(file.read_bytes()[:130])
    with pytest.raises(ArtifactError, match=f"delete {tmp_path} and run again"):
        copy.table("train")
    with pytest.raises(DataError, match="no split 'trian'"):
        data.table("trian")
