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
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import batched_nms, box_iou, nms

from deploy import preprocess
from deploy.runtimes import ort
from stages.artifacts import Dataset, read_json
from stages.checkpoint import build_detector
from stages.config import DataConfig, DetectorConfig
from stages.detectors import Detector, GraphOptions
from stages.loop import Task, Trainer
from stages.nms import select
from stages.onnx_graph import export
from stages.prepare import prepare

ROOT = Path(__file__).parents[1]
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
    """Detections of one image, boxes in px of the network input; masks [N, H, W] pasted into it."""

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
    return trained.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return] # as torchvision's lies


def inputs(dataset: Dataset) -> Iterator[Tensor]:
    for image in read_json(dataset.annotations("val"))["images"]:
        pixels = preprocess.load_image(dataset.images("val") / image["file_name"])
        yield torch.from_numpy(preprocess.apply(pixels, dataset.facts.contract.preprocessing)[0])


def torchvisions(model: Any, image: Tensor, background: int) -> Found:
    with torch.no_grad():
        answer = model([image])[0]
    return Found(answer["boxes"], answer["scores"], answer["labels"] - background, answer["masks"][:, 0] if "masks" in answer else None)


def ours(boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor | None, size: tuple[int, int]) -> Found:
    keep = scores > 0
    pasted = None if masks is None else paste_masks_in_image(masks[keep][:, None], boxes[keep], size)[:, 0]
    return Found(boxes[keep], scores[keep], labels[keep], pasted)


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


def is_tie(expected: Found, row: int, found: Found, options: GraphOptions) -> bool:
    """Whether a detection hangs by less than TIE on the score threshold, the last place, or an overlap at the IoU threshold."""
    score = float(expected.scores[row])
    last = float(found.scores.min()) if len(found.scores) == options.max_detections else options.score_threshold
    if abs(score - options.score_threshold) <= TIE or abs(score - last) <= TIE:
        return True
    same = found.labels == expected.labels[row]
    overlaps = box_iou(expected.boxes[row : row + 1], found.boxes[same])
    return bool(((overlaps - options.iou_threshold).abs() <= TIE).any())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BENCHMARK.CASES))
def test_torchvisions_detections_are_found_again(name: str, dataset: Dataset, tmp_path: Path) -> None:
    _, make, options = BENCHMARK.CASES[name]
    size = dataset.facts.contract.preprocessing.height
    detector = fitted(name, dataset, tmp_path / "training").eval()
    model = BENCHMARK.torchvisions(detector, make, size, len(dataset.facts.contract.classes))
    background = BENCHMARK.background(make)
    graph = detector.graph(options).eval()
    export(graph, (size, size), tmp_path / "model.onnx")
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
            own_masks = None if answer.masks is None else answer.masks[0]
            sides = {
                "torch": ours(answer.boxes[0], answer.scores[0], answer.labels[0], own_masks, (size, size)),
                "onnx": ours(boxes, scores, labels, None if raw.masks is None else torch.from_numpy(raw.masks[0]), (size, size)),
            }
            assert answer.converged.all()
            for side, found in sides.items():
                for row in unmatched(expected, found):
                    exceptions[side] += 1
                    assert is_tie(expected, row, found, options), (side, num_images, row, expected.scores[row], expected.boxes[row])
    assert num_images == NUM_IMAGES
    assert max(exceptions.values()) <= 0.001 * num_expected


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
