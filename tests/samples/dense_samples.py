"""torchvision's own decisions beside those of a dense detector's graph, in torch and in ONNX Runtime."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from stages.detectors import GraphOptions
from stages.detectors.dense.detector import DenseDetector
from stages.exports.to_onnx import write_onnx

D = TypeVar("D", bound=DenseDetector)
Arrays = dict[str, NDArray[Any]]


def lively(detector: D, seed: int = 0) -> D:
    """The detector in eval mode with random last layers, so that scores and boxes spread; no two scores are alike."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in detector.named_parameters():
        if name.endswith(("cls_logits.weight", "bbox_reg.weight", "bbox_ctrness.weight")):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.15
        if name.endswith("cls_logits.bias"):
            parameter.data.fill_(-1.0)
    detector.eval()
    with torch.no_grad():  # scores of 1 each would be ties
        spread = max(float(level.std()) for level in detector(torch.randn(1, 3, 96, 128, generator=generator)).head["class_logits"])
    for name, parameter in detector.named_parameters():
        if name.endswith(("cls_logits.weight", "bbox_reg.weight")) and spread > 3:
            parameter.data *= 3 / spread
    return detector


def torchvisions(detector: DenseDetector, images: Tensor, options: GraphOptions) -> list[Arrays]:
    """What torchvision's own eval forward finds, its transform made to leave the images as they are."""
    own: Any = detector.model
    own.transform.fixed_size = (images.shape[-1], images.shape[-2])
    own.transform.image_mean, own.transform.image_std = [0.0] * 3, [1.0] * 3
    own.topk_candidates, own.score_thresh = options.candidates, options.score_threshold
    own.nms_thresh, own.detections_per_img = options.iou_threshold, options.max_detections
    with torch.no_grad():
        found = own.eval()(list(images))
    return [{name: tensor.numpy() for name, tensor in one.items()} for one in found]


def by_torch(detector: DenseDetector, images: Tensor, options: GraphOptions) -> list[Arrays]:
    with torch.no_grad():
        answer = detector.graph(options).eval()(images)
    assert answer.converged.all()
    return unpadded(answer.boxes.numpy(), answer.scores.numpy(), answer.labels.numpy())


def by_onnx(detector: DenseDetector, images: Tensor, options: GraphOptions, file: Path) -> list[Arrays]:
    write_onnx(detector.graph(options).eval(), (images.shape[-2], images.shape[-1]), file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    boxes, scores, labels, converged = session.run(["boxes", "scores", "labels", "converged"], {"images": images.numpy()})
    assert converged.all()
    return unpadded(boxes, scores, labels)


def unpadded(boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]) -> list[Arrays]:
    """The detections of each image, without those whose score is 0."""
    kept = [s > 0 for s in scores]
    return [
        {"boxes": b[keep], "scores": s[keep], "labels": label[keep]} for b, s, label, keep in zip(boxes, scores, labels, kept, strict=True)
    ]


@dataclass(frozen=True)
class Difference:
    """Over all pairs of detections: the largest distances of boxes (px) and scores."""

    count: int
    box_px: float
    score: float

    def within(self, *, box_px: float, score: float) -> bool:
        return self.count > 0 and self.box_px < box_px and self.score < score


def difference(own: list[Arrays], other: list[Arrays]) -> Difference:
    """Pair each detection of the one with one of the other, of its label and the nearest score and place; none may be left over."""
    count, box, score = 0, 0.0, 0.0
    for mine, theirs in zip(own, other, strict=True):
        assert len(mine["scores"]) == len(theirs["scores"])
        free = list(range(len(theirs["scores"])))
        for index in range(len(mine["scores"])):
            far = [
                np.inf if theirs["labels"][i] != mine["labels"][index] else float(np.abs(theirs["boxes"][i] - mine["boxes"][index]).max())
                for i in free
            ]
            nearest = free.pop(int(np.argmin(far)))
            box = max(box, min(far))
            score = max(score, float(abs(theirs["scores"][nearest] - mine["scores"][index])))
        count += len(mine["scores"])
    return Difference(count, box, score)


def overlapping(found: Arrays, threshold: float) -> bool:
    """Whether two boxes of one label overlap by more than the threshold."""
    boxes, labels = torch.from_numpy(found["boxes"]), torch.from_numpy(found["labels"])
    over = box_iou(boxes, boxes).fill_diagonal_(0) > threshold
    return bool((over & (labels[:, None] == labels[None])).any())
