"""torchvision's own detections, found again by our fixed-shape graphs, with weights fitted for minutes to real nuclei."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny
import torch
from places import ROOT
from torch import Tensor
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, nms

from deploy.prediction import image_files, preprocess
from deploy.runtimes import ort
from stages.artifacts import Dataset, read_json
from stages.config import DataConfig, DetectorConfig
from stages.detectors import Detector, GraphOptions
from stages.detectors.boxes.nms import select
from stages.exports.to_onnx import write_onnx
from stages.prepare import prepare
from stages.training.checkpoint import build_detector
from stages.training.loop import Task, Trainer

NUCLEI = ROOT.parent / "shared" / "data" / "nuclei"
NUM_TRAINING_IMAGES = 240
NUM_IMAGES, MIN_DETECTIONS = 50, 20
BOX_PX, SCORE, MASK, TIE = 0.01, 1e-4, 1e-3, 1e-5


def _benchmark() -> ModuleType:
    """benchmarks/detectors.py, which knows torchvision's models and their settings."""
    spec = importlib.util.spec_from_file_location("benchmark_detectors", ROOT / "benchmarks" / "detectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BENCHMARK = _benchmark()


@dataclass
class Found:
    """Detections of one image, boxes in px of the network input; masks [N, h, w] in their own frame."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None


SIDE_PX = {"ssd": 300}
"""Of the square input, where 160 is too small."""


@pytest.fixture
def dataset(name: str, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Real nuclei at the size of the detector called `name`."""
    if not NUCLEI.is_dir():
        pytest.skip(f"{NUCLEI} is not here")
    few = tmp_path_factory.mktemp("few")
    shutil.copytree(NUCLEI / "annotations", few / "annotations")
    (few / "images").symlink_to(NUCLEI / "images")
    file = few / "annotations" / "instances_train.json"
    coco = read_json(file)
    coco["images"] = coco["images"][:NUM_TRAINING_IMAGES]
    kept = {image["id"] for image in coco["images"]}
    coco["annotations"] = [annotation for annotation in coco["annotations"] if annotation["image_id"] in kept]
    file.write_text(json.dumps(coco), encoding="utf-8")
    side = SIDE_PX.get(name, 160)
    options: dict[str, Any] = {"dataset": "coco", "root": str(few), "preprocessing": {"height": side, "width": side, "resize": "stretch"}}
    return prepare(tmp_path_factory.mktemp("nuclei"), DataConfig.model_validate(options))


def fitted(name: str, dataset: Dataset, folder: Path) -> Detector:
    """The detector after a hundred and twenty steps, its second stage on few regions, for speed."""
    choice = dict(BENCHMARK.CASES[name][0])
    detector = build_detector(DetectorConfig.model_validate(choice), len(dataset.facts.contract.classes), 0)
    heads = getattr(detector.model, "roi_heads", None)
    if heads is not None:
        heads.fg_bg_sampler.batch_size_per_image = 64
    config = tiny.schedule(epochs=1, batch_size=2, learning_rate=3e-4, warmup_steps=20, ema=None, augment=[{"name": "flip"}])
    folder.mkdir()
    trained = Trainer(Task(detector), dataset, config, seed=0, device="cpu", folder=folder, label=name).run()
    return trained.to(memory_format=torch.contiguous_format)  # as torchvision's lies


def inputs(dataset: Dataset) -> Iterator[Tensor]:
    preprocessing = dataset.facts.contract.preprocessing
    for image in read_json(dataset.annotations("val"))["images"]:
        pixels = image_files.load_image(dataset.images("val") / image["file_name"], preprocessing)
        yield torch.from_numpy(preprocess.apply(pixels, preprocessing)[0])


def torchvisions(model: Any, image: Tensor, background: int) -> Found:
    with torch.no_grad():
        answer = model([image])[0]
    return Found(answer["boxes"], answer["scores"], answer["labels"] - background, answer["masks"][:, 0] if "masks" in answer else None)


def ours(boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor | None) -> Found:
    keep = scores > 0
    return Found(boxes[keep], scores[keep], labels[keep], None if masks is None else masks[keep])


def unmatched(expected: Found, found: Found) -> list[int]:
    """The rows of `expected` without a partner of their own."""
    free = torch.ones(len(found.scores), dtype=torch.bool)
    missing = []
    for row in range(len(expected.scores)):
        near = (found.boxes - expected.boxes[row]).abs().amax(dim=1) <= BOX_PX
        same = free & near & (found.labels == expected.labels[row]) & ((found.scores - expected.scores[row]).abs() <= SCORE)
        if expected.masks is not None and found.masks is not None and same.any():
            same &= (found.masks - expected.masks[row]).abs().amax(dim=(1, 2)) <= MASK
        if same.any():
            free[int(same.nonzero()[0])] = False
        else:
            missing.append(row)
    return missing


class Ties:
    """Which of an image's detections hang by less than TIE on a score, a last place, or an overlap, in either stage."""

    def __init__(self, model: Any, image: Tensor, options: GraphOptions) -> None:
        self.options = options
        self.tied = tied_regions(model, image) if hasattr(model, "rpn") else torch.zeros(0, 4)

    def unexplained(self, one: Found, other: Found) -> list[int]:
        """The rows of `one` that `other` lacks for no reason."""
        missing, extra = unmatched(one, other), unmatched(other, one)
        known = {(0, row) for row in missing if self.explains(one, row, other)} | {
            (1, row) for row in extra if self.explains(other, row, one)
        }
        sides, rows = (one, other), {0: missing, 1: extra}
        while True:  # a box that comes or goes by a tie takes along those that it suppresses
            follow = {
                (side, row)
                for side in (0, 1)
                for row in rows[side]
                for cause_side, cause in known
                if cause_side != side and (side, row) not in known and self._suppress(sides[side], row, sides[cause_side], cause)
            }
            if not follow:
                break
            known |= follow
        left = [row for row in missing if (0, row) not in known]
        if all((1, row) in known for row in extra):  # each took a place, so that the last ones fell out
            left = [row for row in left if row < self.options.max_detections - len(extra)]
        return left

    def _suppress(self, one: Found, row: int, other: Found, cause: int) -> bool:
        overlap = float(box_iou(one.boxes[row : row + 1], other.boxes[cause : cause + 1]))
        return bool(one.labels[row] == other.labels[cause]) and overlap > self.options.iou_threshold - TIE

    def explains(self, one: Found, row: int, other: Found) -> bool:
        score, threshold = float(one.scores[row]), self.options.iou_threshold
        last = float(other.scores.min()) if len(other.scores) == self.options.max_detections else self.options.score_threshold
        if abs(score - self.options.score_threshold) <= TIE or abs(score - last) <= TIE:
            return True
        box = one.boxes[row : row + 1]
        if bool((box_iou(box, self.tied) > threshold - TIE).any()):  # it comes of such a region, or gave way to one that does
            return True
        same = other.labels == one.labels[row]
        overlaps = box_iou(box, other.boxes[same])[0]
        if bool(((overlaps > threshold - TIE) & ((other.scores[same] - score).abs() <= TIE)).any()):  # which of two goes first
            return True
        overlaps = torch.cat((overlaps, box_iou(box, one.boxes[one.labels == one.labels[row]])[0]))
        return bool(((overlaps - threshold).abs() <= TIE).any())


def tied_regions(model: Any, image: Tensor) -> Tensor:
    """What the second stage makes [M, 4] of those regions of the first whose suppression or rank hangs by less than TIE.

    Each that comes or goes by such a tie moves the others by one place, so that so many about the last place of all come or go with it.
    """
    with torch.no_grad():
        images, _ = model.transform([image])
        features = model.backbone(images.tensors)
        maps = list(features.values())
        objectness, deltas = model.rpn.head(maps)
        anchors = model.rpn.anchor_generator(images, maps)
        counts = [level[0].numel() for level in objectness]
        logits, deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = clip_boxes_to_image(model.rpn.box_coder.decode(deltas, anchors).view(-1, 4), images.image_sizes[0])
        tied, remaining, remaining_scores = [], [], []
        for level_boxes, level_logits in zip(boxes.split(counts), logits.flatten().split(counts), strict=True):
            scores, order = level_logits.sigmoid().sort(descending=True)
            kept, last = order[: model.rpn.pre_nms_top_n()], scores[: model.rpn.pre_nms_top_n()][-1]
            candidates, values = level_boxes[kept], level_logits[kept].sigmoid()
            overlaps = box_iou(candidates, candidates)
            hangs = ((overlaps - model.rpn.nms_thresh).abs() <= TIE) | (
                (overlaps > model.rpn.nms_thresh) & ((values[:, None] - values).abs() <= TIE) & ~torch.eye(len(kept), dtype=torch.bool)
            )
            mine = hangs.any(dim=1) | ((values - last).abs() <= TIE if len(order) > len(kept) else False)
            mine |= (overlaps[:, mine] > model.rpn.nms_thresh).any(dim=1)  # and those that give way to them
            tied.append(candidates[mine])
            large = (candidates[:, 2:] - candidates[:, :2]).amin(dim=1) >= model.rpn.min_size
            survivors = nms(candidates[large], values[large], model.rpn.nms_thresh)
            remaining.append(candidates[large][survivors])
            remaining_scores.append(values[large][survivors])
        places, order = torch.cat(remaining_scores).sort(descending=True)
        if len(order) > (last_place := model.rpn.post_nms_top_n()):
            about = (torch.arange(len(order)) - last_place + 0.5).abs() < sum(map(len, tied))
            about |= (places - places[last_place - 1]).abs() <= TIE
            tied.append(torch.cat(remaining)[order[about]])
        regions = torch.cat(tied)
        pooled = model.roi_heads.box_roi_pool(features, [regions], images.image_sizes)
        _, regression = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
        decoded = model.roi_heads.box_coder.decode(regression, [regions])[:, 1:].reshape(-1, 4)
        clipped: Tensor = clip_boxes_to_image(decoded, images.image_sizes[0])
        return clipped


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BENCHMARK.CASES))
def test_torchvisions_detections_are_found_again(name: str, dataset: Dataset, tmp_path: Path) -> None:
    _, make, options = BENCHMARK.CASES[name]
    size = dataset.facts.contract.preprocessing.height
    detector = fitted(name, dataset, tmp_path / "training").eval()
    model = BENCHMARK.torchvisions(detector, make, size, len(dataset.facts.contract.classes))
    model.transform.postprocess = lambda result, *_: result  # masks as they are, before they are pasted
    background = BENCHMARK.background(make)
    graph = detector.graph(options).eval()
    write_onnx(graph, (size, size), tmp_path / "model.onnx")
    num_images = num_expected = 0
    exceptions: dict[str, int] = {"torch": 0, "onnx": 0}
    with ort.open(tmp_path / "model.onnx", threads=1) as session:
        for image in inputs(dataset):
            expected = torchvisions(model, image, background)
            if len(expected.scores) < MIN_DETECTIONS or num_images == NUM_IMAGES:
                continue
            num_images, num_expected = num_images + 1, num_expected + len(expected.scores)
            with torch.no_grad():
                answer = graph(image[None])
            raw = session.infer(image[None].numpy())
            boxes, scores, labels = (torch.from_numpy(part[0]) for part in (raw.boxes, raw.scores, raw.labels))
            sides = {
                "torch": ours(answer.boxes[0], answer.scores[0], answer.labels[0], None if answer.masks is None else answer.masks[0]),
                "onnx": ours(boxes, scores, labels, None if raw.masks is None else torch.from_numpy(raw.masks[0])),
            }
            assert answer.converged.all()
            for side, found in sides.items():
                if missing := unmatched(expected, found):
                    exceptions[side] += len(missing)
                    rows = Ties(model, image, options).unexplained(expected, found)
                    assert not rows, (side, num_images, [(float(expected.scores[row]), expected.boxes[row].tolist()) for row in rows])
    assert num_images == NUM_IMAGES
    assert max(exceptions.values()) <= 0.001 * num_expected, (exceptions, num_expected)


def test_torchvisions_class_offset_changes_results_and_is_not_copied() -> None:
    """Shifting the boxes of each class apart rounds their coordinates; suppression class by class, which is ours, does not."""
    generator = torch.Generator().manual_seed(0)
    shown = 0
    for _ in range(300):
        boxes = torch.rand(200, 2, generator=generator) * 1200
        boxes = torch.cat((boxes, boxes + 20 + torch.rand(200, 2, generator=generator) * 200), dim=1)
        labels = torch.randint(0, 90, (200,), generator=generator)
        scores = torch.rand(200, generator=generator)
        pair = torch.randint(0, 200, (2,), generator=generator).tolist()
        boxes[pair[1]] = boxes[pair[0]] + torch.tensor([0.0, 0.0, float(boxes[pair[0], 2] - boxes[pair[0], 0]), 0.0])  # an IoU of one half
        labels[pair[1]] = labels[pair[0]] = 89
        by_class = torch.cat([(labels == c).nonzero()[:, 0][nms(boxes[labels == c], scores[labels == c], 0.5)] for c in labels.unique()])
        expected = set(by_class.tolist())
        shifted = set(batched_nms(boxes, scores, labels, 0.5).tolist())
        _, kept_scores, _, converged = select(boxes[None], scores[None], labels[None], 0.5, 200)
        assert converged.all()
        assert {score for score in kept_scores[0].tolist() if score > 0} == {float(scores[i]) for i in expected}
        shown += expected != shifted
    assert shown > 0
