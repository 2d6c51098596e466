"""What detectors that predict a set share: every query returns one box, without NMS.

Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, https://arxiv.org/abs/2005.12872. Networks and losses are
the transformers library's. Departure: the best over all queries and classes are taken, as in Deformable DETR and its successors.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deploy.errors import ConfigError
from stages.detectors import Decoded, Detector, Graph, GraphOptions, GraphOutput, Outputs, Target
from stages.detectors.boxes.coding import clip
from stages.detectors.boxes.nms import best

LabelDict = dict[str, Tensor]
"""The objects of one image in transformers' form: "class_labels" [N], "boxes" [N, 4] as fractions, "masks" [N, H, W]."""


@dataclass(frozen=True)
class SetPrediction:
    """A network's answer for a batch.

    pyramid: the maps that its decoder attends to, finest first.
    logits: [B, Q, K] of the last decoder layer; boxes: [B, Q, 4] (cx, cy, w, h) as fractions of the image.
    masks: logits [B, Q, h, w] over the image, or None.
    losses: weighted, empty without labels.
    """

    pyramid: tuple[Tensor, ...]
    logits: Tensor
    boxes: Tensor
    masks: Tensor | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class SetPredictionDetector(Detector):
    """A detector whose `predict` runs one of transformers' networks."""

    kind = "set_prediction"
    gives = ("pyramid", "decoded", "decoder_queries")

    @abstractmethod
    def predict(self, images: Tensor, labels: list[LabelDict] | None = None) -> SetPrediction:
        """Run on images [B, 3, H, W]; with labels, the losses are in the result."""

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """See Detector.forward."""
        labels = None if targets is None else [as_label(target, images) for target in targets]
        prediction = self.predict(images, labels)
        head = {"class_logits": (prediction.logits,), "boxes": (prediction.boxes,)}
        if prediction.masks is not None:
            head["masks"] = (prediction.masks,)
        size = images.shape[-2], images.shape[-1]
        return Outputs(prediction.pyramid, self.strides, head, prediction.losses, size=size, network=self)

    def decoded(self, outputs: Outputs) -> Decoded:
        """See Detector.decoded."""
        return Decoded((corners(outputs.head["boxes"][0].float(), *outputs.size),), None)

    @staticmethod
    def check_positions(images: Tensor, shapes: Sequence[tuple[int, int]], num_queries: int) -> None:
        """Refuse images whose levels, of (height, width) positions, have fewer positions than there are queries.

        Raises:
            ConfigError: there are too few positions; the message has both numbers.
        """
        positions = sum(height * width for height, width in shapes)
        if positions < num_queries:
            size = f"an image of {images.shape[-2]} x {images.shape[-1]} px has {positions} positions"
            raise ConfigError(f"{num_queries} queries, but {size}; set fewer queries or larger data.preprocessing.height and width")

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return SetPredictionGraph(self, options)


class SetPredictionGraph(Graph):
    """The deployed form: the same decisions as transformers' image processors, at a fixed shape, with boxes clipped to the image."""

    def __init__(self, detector: SetPredictionDetector, options: GraphOptions) -> None:
        super().__init__()
        self.detector = detector
        self.options = options

    def forward(self, images: Tensor) -> GraphOutput:
        """See Graph.forward."""
        prediction = self.detector.predict(images)
        num_queries, num_classes = prediction.logits.shape[-2:]
        probabilities = torch.sigmoid(prediction.logits.float()).flatten(1)
        scores, chosen = best(probabilities, min(self.options.max_detections, num_queries * num_classes))
        query = torch.div(chosen, num_classes, rounding_mode="floor")
        boxes = torch.gather(prediction.boxes.float(), 1, query[..., None].expand(-1, -1, 4))
        boxes = clip(corners(boxes, images.shape[-2], images.shape[-1]), images.shape[-2], images.shape[-1])
        scores = torch.where(scores > self.options.score_threshold, scores, torch.zeros_like(scores))
        boxes = torch.where(scores[..., None] > 0, boxes, torch.zeros_like(boxes))
        settled = torch.ones_like(scores[:, 0], dtype=torch.bool)
        labels, head = chosen - query * num_classes, (prediction.logits, prediction.boxes)
        if prediction.masks is None:
            return GraphOutput(boxes, scores, labels, settled, head)
        place = query[..., None, None].expand(-1, -1, *prediction.masks.shape[-2:])
        masks = torch.sigmoid(torch.gather(prediction.masks.float(), 1, place))
        return GraphOutput(boxes, scores, labels, settled, (*head, prediction.masks), masks)


def corners(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes [..., 4] (x1, y1, x2, y2) in px, from (cx, cy, w, h) as fractions of an image of height x width px."""
    center_x, center_y, wide, high = boxes.unbind(dim=-1)
    left, right = (center_x - 0.5 * wide) * width, (center_x + 0.5 * wide) * width
    top, bottom = (center_y - 0.5 * high) * height, (center_y + 0.5 * high) * height
    return torch.stack((left, top, right, bottom), dim=-1)


def as_label(target: Target, images: Tensor) -> LabelDict:
    """A target in transformers' form."""
    height, width = images.shape[-2:]
    x1, y1, x2, y2 = target.boxes.float().unbind(dim=-1)
    boxes = torch.stack(((x1 + x2) / (2 * width), (y1 + y2) / (2 * height), (x2 - x1) / width, (y2 - y1) / height), dim=-1)
    label = {"class_labels": target.labels, "boxes": boxes}
    if target.masks is not None:
        label["masks"] = target.masks
    return label


def grid_boxes(shapes: list[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """A box [1, S, 4] (cx, cy, w, h as fractions) around each position of all levels, and whether it is off the border, [1, S, 1].

    Boxes are a twentieth of the image wide on the first level, twice as wide on each that follows; those near the border are 0.
    """
    parts = []
    for index, (height, width) in enumerate(shapes):
        center_y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        center_x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        y, x = torch.meshgrid(center_y, center_x, indexing="ij")
        size = torch.full_like(x, 0.05 * 2**index)
        parts.append(torch.stack((x, y, size, size), dim=-1).flatten(0, 1))
    boxes = torch.cat(parts)[None]
    inside = ((boxes > 0.01) & (boxes < 0.99)).all(dim=-1, keepdim=True)
    return torch.where(inside, boxes, torch.zeros_like(boxes)), inside


def full_precision(value: Any) -> Any:
    """Half-precision tensors as float32, also inside dictionaries, lists and tuples; for losses, which overflow in half precision."""
    return _mapped(value, Tensor.float)


def not_finite(*tensors: Tensor) -> bool:
    """Whether a network has diverged, in which case matching queries and objects would raise an error of its own."""
    return not all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def mended(value: Any) -> Any:
    """The same value with 0.5 in place of whatever is not finite, also inside dictionaries, lists and tuples."""
    return _mapped(value, lambda tensor: torch.where(torch.isfinite(tensor), tensor, torch.full_like(tensor, 0.5)))


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same value with a function applied to every floating-point tensor in it."""
    if isinstance(value, Tensor):
        return function(value) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _mapped(inner, function) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(inner, function) for inner in value)
    return value
