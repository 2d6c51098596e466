"""What SSD and SSDlite share: torchvision's SSD as a detector, and its deployed graph.

Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, https://arxiv.org/abs/1512.02325. Departure: default boxes are at
the levels' positions at any image size; torchvision's steps are right only at 300 x 300 px.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from stages.detectors import Decoded, Detector, Graph, GraphOptions, GraphOutput, HeadShape, Outputs, Target
from stages.detectors.boxes.coding import clip, decode
from stages.detectors.boxes.nms import select_per_class
from stages.detectors.single_shot.softmax_head import SoftmaxHead
from stages.processes import rescale

CLASS_LAYERS = ("head.classification_head.",)
"""Prefixes of the names of tensors that grow with the number of classes."""

_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class SsdDetector(Detector):
    """torchvision's SSD; labels are its own minus one, because 0 is its background.

    Args:
        strides: one per level, finest first.
        channels: one number per level.
        min_side_px: below this the last level has no position left.
    """

    size_multiple = 4
    gives = ("pyramid", "head", "decoded", "teacher_head")

    def __init__(self, model: SSD, strides: tuple[int, ...], channels: tuple[int, ...], min_side_px: int = 1) -> None:
        super().__init__()
        self.model = model
        self.strides = strides
        self.channels = channels
        self.min_side_px = min_side_px
        self.head_shape = HeadShape(tuple(model.anchor_generator.num_anchors_per_location()))

    def features(self, images: Tensor) -> list[Tensor]:
        """The pyramid, finest first."""
        return list(self.model.backbone(images).values())

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """See Detector.forward."""
        features = self.features(images)
        head = self.model.head(features)
        losses = {} if targets is None else self._losses(images, features, head, targets)
        return self._outputs(features, head, losses, (images.shape[-2], images.shape[-1]))

    def decoded(self, outputs: Outputs) -> Decoded:
        """See Detector.decoded."""
        deltas = outputs.head["box_deltas"]
        boxes = self.default_boxes(deltas[0].new_empty(1, 0, *outputs.size), outputs.pyramid).split(self._sizes(outputs.pyramid))
        return Decoded(tuple(decode(own.float(), default, _WEIGHTS) for own, default in zip(deltas, boxes, strict=True)), boxes)

    def head_on(self, pyramid: Sequence[Tensor], size: tuple[int, int]) -> Outputs:
        """See Detector.head_on."""
        return self._outputs(pyramid, self.model.head(list(pyramid)), {}, size)

    def _outputs(
        self, features: Sequence[Tensor], head: Mapping[str, Tensor], losses: Mapping[str, Tensor], size: tuple[int, int]
    ) -> Outputs:
        sizes = self._sizes(features)
        levels = SoftmaxHead(head["cls_logits"].split(sizes, dim=1), head["bbox_regression"].split(sizes, dim=1))
        return Outputs(tuple(features), self.strides, levels, losses, size=size, network=self)

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return SsdGraph(self, options)

    def default_boxes(self, images: Tensor, features: Sequence[Tensor]) -> Tensor:
        """[HWA of all levels, 4] as x1, y1, x2, y2 in px."""
        grids = [(level.shape[-2], level.shape[-1]) for level in features]
        generator = self.model.anchor_generator
        return default_boxes(generator, grids, (images.shape[-2], images.shape[-1])).to(images.device)

    def _sizes(self, features: Sequence[Tensor]) -> list[int]:
        """The number of default boxes of each level."""
        num_boxes = self.model.anchor_generator.num_anchors_per_location()
        return [level.shape[-2] * level.shape[-1] * num for level, num in zip(features, num_boxes, strict=True)]

    def _losses(self, images: Tensor, features: Sequence[Tensor], head: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """torchvision's losses: softmax with three hard negatives per positive, and smooth L1."""
        boxes = self.default_boxes(images, features)
        rows = [{"boxes": target.boxes, "labels": target.labels + 1} for target in targets]
        with torch.autocast(images.device.type, enabled=False):
            matched = [self._match(target, boxes) for target in targets]
            full = {name: tensor.float() for name, tensor in head.items()}
            losses = self.model.compute_loss(rows, full, [boxes] * len(rows), matched)
        num_positives = int(torch.stack([(one >= 0).sum() for one in matched]).sum())
        return rescale(losses, num_positives, images.device)

    def _match(self, target: Target, boxes: Tensor) -> Tensor:
        """For each default box the index of its object, or -1."""
        if not len(target.boxes):
            return torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device)
        matched: Tensor = self.model.proposal_matcher(box_iou(target.boxes, boxes))
        return matched


class SsdGraph(Graph):
    """The deployed form: the same decisions as torchvision's SSD in eval mode, at a fixed shape."""

    def __init__(self, detector: SsdDetector, options: GraphOptions) -> None:
        super().__init__()
        self.detector = detector
        self.options = options

    def forward(self, images: Tensor) -> GraphOutput:
        """See Graph.forward."""
        features = self.detector.features(images)
        head = self.detector.model.head(features)
        logits, deltas = head["cls_logits"], head["bbox_regression"]
        scores = torch.softmax(logits.float(), dim=-1)[..., 1:].transpose(1, 2)
        scores = torch.where(scores > self.options.score_threshold, scores, torch.zeros_like(scores))
        boxes = decode(deltas.float(), self.detector.default_boxes(images, features), _WEIGHTS)
        boxes = clip(boxes, images.shape[-2], images.shape[-1])
        limits = self.options.iou_threshold, self.options.max_detections, self.options.candidates
        answer = select_per_class(boxes, scores, *limits, agnostic=self.options.agnostic)
        return GraphOutput(*answer, head=(logits, deltas))


def default_boxes(generator: DefaultBoxGenerator, grids: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """Default boxes in torchvision's order, [N, 4] as x1, y1, x2, y2 in px, for levels with these rows and columns.

    If the generator has steps, the levels whose step is a power of two keep it; the others divide the image evenly, as 100 and
    300 px do at 300 x 300 px.
    """
    height, width = size
    scale = torch.tensor([width, height])
    boxes: list[Tensor] = []
    for index, (rows, columns) in enumerate(grids):
        step = generator.steps[index] if generator.steps is not None else 0
        fixed = step > 0 and step & (step - 1) == 0
        x = (torch.arange(columns) + 0.5) / (width / step if fixed else columns)
        y = (torch.arange(rows) + 0.5) / (height / step if fixed else rows)
        center = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[:, :, None]
        half = 0.5 * _shapes(generator.scales[index], generator.scales[index + 1], generator.aspect_ratios[index])
        boxes.append(torch.cat((center - half, center + half), dim=-1).reshape(-1, 4))
    return torch.cat(boxes) * scale.repeat(2)


def _shapes(scale: float, next_scale: float, ratios: Sequence[float]) -> Tensor:
    """Width and height of a level's default boxes, [A, 2] as fractions of the image's."""
    between = math.sqrt(scale * next_scale)
    shapes = [(scale, scale), (between, between)]
    for ratio in ratios:
        long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        shapes += [(long, short), (short, long)]
    return torch.tensor(shapes).clamp(max=1)
