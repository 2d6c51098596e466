"""Masks of training views: where their boxes are, whatever was done to the image."""

import json
import os
from pathlib import Path
from typing import Any

import detector_samples
import numpy as np
import pytest
import tiny
import torch
from PIL import Image, ImageDraw
from places import ROOT
from torch import Tensor

from deploy.prediction import image_files, masks, preprocess
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import ort
from stages.artifacts import TABLES, Dataset
from stages.config import DataConfig, ExportConfig
from stages.datasets.tables import table
from stages.detectors import Detector, Target
from stages.exports.to_onnx import write_onnx
from stages.measurement.torch_accuracy import TorchSession, evaluate, graph_options
from stages.prepare import prepare
from stages.training.batches.augment import mask_boxes, tighten
from stages.training.batches.loader import TrainingBatch, TrainingImages, collate
from stages.training.batches.streams import TrainingView
from stages.training.loop import Task, Trainer

NUCLEI = Path(os.environ.get("EDGEDISTILL_DATA", ROOT.parent / "shared" / "data")) / "nuclei"
AUGMENTS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "flip": [{"name": "flip", "p": 1.0}],
    "scale": [{"name": "scale", "min": 0.4, "max": 2.0}],
    "crop": [{"name": "crop", "p": 1.0, "min_scale": 0.3}],
    "color": [{"name": "color"}],
    "mosaic": [{"name": "mosaic", "p": 1.0}],
    "all": [{"name": "mosaic"}, {"name": "crop"}, {"name": "scale"}, {"name": "flip"}, {"name": "color"}],
}


def discs(root: Path, resize: str = "letterbox", num_images: int = 4) -> Dataset:
    """White discs on black, some over the edge, as polygons, codes and counts; so a view's pixels show what its masks should be."""
    for split in ("train", "val"):
        random = np.random.default_rng(0)
        (root / "images" / split).mkdir(parents=True)
        coco: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "disc"}]}
        for number in range(1, num_images + 1):
            width, height = int(random.integers(90, 150)), int(random.integers(90, 150))
            picture = Image.new("RGB", (width, height))
            coco["images"].append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
            for cell in random.permutation(4)[:3].tolist():  # in quarters, so that they are apart
                middle = np.array([cell % 2 * 0.5 + 0.25, cell // 2 * 0.5 + 0.25]) * [width, height] + random.uniform(-4, 4, 2)
                radius = random.uniform(6, 18)
                alone = Image.new("1", (width, height))
                for drawn, ink in ((alone, 1), (picture, "white")):
                    ImageDraw.Draw(drawn).ellipse((*(middle - radius), *(middle + radius)), fill=ink)
                inside = np.asarray(alone)
                rows, columns = np.nonzero(inside)
                box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
                annotation = {"id": len(coco["annotations"]) + 1, "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0}
                coco["annotations"].append({**annotation, "segmentation": masks.encode(inside, (height, width))})
            picture.save(root / "images" / split / f"{number}.png")
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
    return prepared(root, root / "out", resize)


def prepared(root: Path, out: Path, resize: str, size: int = 128) -> Dataset:
    preprocessing = {"height": size - 32, "width": size, "resize": resize, "pad_value": 0}
    out.mkdir()
    return prepare(out, DataConfig.model_validate({"dataset": "coco", "root": str(root), "preprocessing": preprocessing}))


def views(dataset: Dataset, augment: list[dict[str, Any]], *, with_masks: bool = True, epochs: int = 3) -> list[TrainingView]:
    images = TrainingImages(dataset, tiny.schedule(augment=augment), 0, masks=with_masks)
    return [images[(epoch, index)] for epoch in range(epochs) for index in range(min(len(images), 12))]


def the_masks(target: Target) -> Tensor:
    assert target.masks is not None
    assert target.masks.dtype == torch.bool
    assert len(target.masks) == len(target.boxes) == len(target.labels)
    return target.masks


@pytest.mark.parametrize(("name", "resize"), [*((name, "letterbox") for name in AUGMENTS), ("all", "stretch"), ("all", "shortest_edge")])
def test_masks_lie_on_what_is_seen_of_their_objects(tmp_path: Path, name: str, resize: str) -> None:
    """By the pixels of the view, which went another way."""
    dataset = discs(tmp_path, resize)
    preprocessing = dataset.facts.contract.preprocessing
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    covered = seen = right = 0
    for image, target, _ in views(dataset, AUGMENTS[name]):
        found = the_masks(target)
        assert found.shape[1:] == image.shape[1:]
        bright = (image * std + mean).amax(dim=0)
        white = bright > 0.5 * bright.max()
        for mask in found:
            assert float(white[mask].float().mean()) > 0.6  # of small ones a good part is edge
        union = found.any(dim=0)
        covered, seen, right = covered + int(union.sum()), seen + int(white.sum()), right + int((union & white).sum())
    assert right / covered > 0.9
    assert right / seen > (0.8 if name in ("crop", "all") else 0.9)  # a crop drops objects of whose middle nothing is seen


@pytest.mark.parametrize("name", AUGMENTS)
def test_masks_draw_no_random_number_and_their_boxes_lie_in_those_without(tmp_path: Path, name: str) -> None:
    dataset = discs(tmp_path)
    plain, masked = (views(dataset, AUGMENTS[name], with_masks=chosen) for chosen in (False, True))
    for (image, target, _), (same, with_masks, _) in zip(plain, masked, strict=True):
        assert torch.equal(image, same)
        assert target.masks is None
        around = mask_boxes(the_masks(with_masks))
        assert bool(((with_masks.boxes - around).abs() <= 1).all())
        for box in with_masks.boxes:
            beyond = torch.cat((target.boxes[:, :2] - box[:2], box[2:] - target.boxes[:, 2:]), dim=1).amax(dim=1)
            assert float(beyond.min()) <= 1.5  # the nearest px of the nearest px


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The first 6 training and 6 validation images."""
    root = tmp_path_factory.mktemp("nuclei")
    (root / "annotations").mkdir()
    (root / "images").symlink_to(NUCLEI / "images")
    for split in ("train", "val"):
        coco = json.loads((NUCLEI / "annotations" / f"instances_{split}.json").read_text())
        images = coco["images"][:6]
        kept = [row for row in coco["annotations"] if row["image_id"] in {image["id"] for image in images}]
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps({**coco, "images": images, "annotations": kept}))
    return prepared(root, root / "out", "letterbox", 352)


@pytest.mark.skipif(not NUCLEI.is_dir(), reason=f"the nuclei data is not at {NUCLEI}")
class TestNuclei:
    """513 micrographs with 26,255 masks."""

    def test_every_mask_survives_cleaning(self, nuclei: Dataset) -> None:
        assert nuclei.facts.notes == ()
        for split in ("train", "val"):
            rows = json.loads(nuclei.annotations(split).read_text())["annotations"]
            assert len(rows) > 100
            assert all(set(row["segmentation"]) == {"size", "counts"} for row in rows)

    def test_annotated_boxes_are_those_of_their_masks(self, nuclei: Dataset) -> None:
        coco = json.loads(nuclei.annotations("train").read_text())
        for row in coco["annotations"]:
            mask = torch.from_numpy(masks.decode(row["segmentation"], tuple(row["segmentation"]["size"])))[None]
            x, y, width, height = row["bbox"]
            assert float((mask_boxes(mask)[0] - torch.tensor([x, y, x + width, y + height])).abs().max()) <= 1

    @pytest.mark.parametrize("name", AUGMENTS)
    def test_boxes_and_masks_agree_after_every_augmentation(self, nuclei: Dataset, name: str) -> None:
        plain, masked = (views(nuclei, AUGMENTS[name], with_masks=chosen, epochs=1) for chosen in (False, True))
        apart = []
        for (_, without, _), (_, target, _) in zip(plain, masked, strict=True):
            around = mask_boxes(the_masks(target))
            assert bool(((target.boxes - around).abs() <= 1).all())
            if len(target.boxes):
                apart.append(torch.cdist(target.boxes, without.boxes, p=torch.inf).amin(dim=1))
        far = (torch.cat(apart) > 2.1).float().mean()
        assert sum(map(len, apart)) > 80
        assert float(far) <= (0.25 if name in ("scale", "crop", "all") else 0)  # where the box without masks is of the uncut object


def test_tighten_leaves_out_what_was_cut_away() -> None:
    found = torch.zeros(3, 10, 10, dtype=torch.bool)
    found[0, 2:5, 3:8] = True
    found[2, 0:9, 0:4] = True
    boxes = torch.tensor([[2.6, 2, 8, 5.4], [0, 0, 4, 4], [0, 0, 9, 9]])
    kept = tighten(Target(boxes, torch.tensor([4, 5, 6]), found))
    assert kept.labels.tolist() == [4, 6]
    assert torch.equal(kept.boxes, torch.tensor([[2.6, 2, 8, 5.4], [0, 0, 4, 9]]))
    assert torch.equal(the_masks(kept), found[[0, 2]])
    assert tighten(Target(boxes[:0], torch.zeros(0, dtype=torch.int64), found[:0])).boxes.shape == (0, 4)


def test_an_object_without_a_mask_has_its_box_and_an_image_without_objects_none(tmp_path: Path) -> None:
    dataset = discs(tmp_path)
    coco = json.loads(dataset.annotations("train").read_text())
    coco["annotations"] = [row for row in coco["annotations"] if row["image_id"] != 1]
    for row in coco["annotations"]:
        del row["segmentation"]
    table.write(dataset.root / TABLES / "train", coco, {1: 0})
    images = TrainingImages(dataset, tiny.schedule(augment=[]), 0, masks=True)
    assert the_masks(images[(0, 0)][1]).shape == (0, 96, 128)
    target = images[(0, 1)][1]
    assert bool(((mask_boxes(the_masks(target)) - target.boxes).abs() <= 1).all())
    area = (target.boxes[:, 2:] - target.boxes[:, :2]).prod(dim=1)
    assert torch.allclose(the_masks(target).sum(dim=(1, 2)).float(), area, rtol=0.15)
    for augment in AUGMENTS.values():
        for _, target, _ in views(dataset, augment, epochs=1):
            the_masks(target)


def test_without_being_asked_no_mask_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = discs(tmp_path)
    monkeypatch.setattr(masks, "decode", None)
    assert views(dataset, [], with_masks=False)[0][1].masks is None


def test_a_batch_moves_its_masks(tmp_path: Path) -> None:
    batch = collate(views(discs(tmp_path), [])[:2])
    assert isinstance(batch, TrainingBatch)
    moved = batch.to(torch.device("meta"))
    assert all(target.masks is not None and target.masks.is_meta for target in moved.targets)


def test_the_view_is_what_the_network_is_given(tmp_path: Path) -> None:
    """Without augmentation, the masks are those of the image through the deployed geometry."""
    dataset = discs(tmp_path, "shortest_edge")
    coco = json.loads(dataset.annotations("train").read_text())
    image = coco["images"][0]
    rows = [row for row in coco["annotations"] if row["image_id"] == image["id"]]
    preprocessing = dataset.facts.contract.preprocessing
    placement = preprocess.place(image["width"], image["height"], preprocessing)
    expected = np.stack([masks.decode(row["segmentation"], (image["height"], image["width"])) for row in rows])
    (_, target, _), *_ = views(dataset, [])
    assert np.array_equal(the_masks(target).numpy(), preprocess.fit_masks(expected, placement, preprocessing))


def trained(folder: Path, dataset: Dataset, epochs: int) -> Detector:
    (folder / "training").mkdir()
    config = tiny.schedule(epochs=epochs, batch_size=4, warmup_steps=5, augment=AUGMENTS["flip"], learning_rate=2e-3, ema=None)
    task = Task(detector_samples.tiny("mask_rcnn", num_classes=1))
    return Trainer(task, dataset, config, seed=0, device="cpu", folder=folder / "training", label="discs").run()


def test_a_detector_with_masks_is_trained_with_them_and_judged_by_them(tmp_path: Path) -> None:
    dataset = discs(tmp_path)
    accuracy = evaluate(tmp_path, trained(tmp_path, dataset, 1), dataset, "val", ExportConfig())
    assert accuracy.segmentation is not None
    assert accuracy.segmentation.map is not None


@pytest.mark.slow
def test_masks_are_learnt_and_the_same_from_an_engine(tmp_path: Path) -> None:
    dataset = discs(tmp_path, num_images=16)
    detector = trained(tmp_path, dataset, 18)
    accuracy = evaluate(tmp_path, detector, dataset, "val", ExportConfig())
    assert accuracy.segmentation is not None
    assert accuracy.segmentation.map_50 is not None
    assert accuracy.segmentation.map_50 > 0.7
    graph = detector.graph(graph_options(ExportConfig())).eval()
    write_onnx(graph, (96, 128), tmp_path / "model.onnx")
    contract = dataset.facts.contract.model_copy(update={"mask_frame": detector.mask_frame})
    image = image_files.load_image(dataset.images("val") / "1.png", contract.preprocessing)
    with ort.open(tmp_path / "model.onnx", threads=1) as session:
        ours, theirs = (SessionPredictor(one, contract).detect(image) for one in (session, TorchSession(graph)))
    assert ours.masks is not None
    assert theirs.masks is not None
    assert len(ours.masks) == len(theirs.masks) > 0
    size = image.shape[0], image.shape[1]
    for mine, other in zip(ours.masks, theirs.masks, strict=True):
        assert int((masks.decode(mine, size) != masks.decode(other, size)).sum()) <= 5
