"""FCOS on torchvision's modules.

Tian et al., "FCOS: A Simple and Strong Anchor-free Object Detector", TPAMI 2022, https://arxiv.org/abs/2006.09214.
Departures beside torchvision's own (GIoU loss, centre sampling of radius 1.5 strides, centerness in the regression branch):
the strides of the pyramid and the size of the objects each level takes (`range_scale`) are options; the heads' groups have 8 channels,
which at 256 channels are torchvision's 32 groups; the regression's bias starts positive: its ReLU, started at 0 as torchvision's is,
left whole sides of the boxes dead in short trainings from scratch.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.image_list import ImageList

from stages.backbones import PyramidBackbone, group_norm
from stages.detectors import Answer, Detector, Graph, GraphOptions, Outputs, Target
from stages.distribution import rescale
from stages.nms import select

_FIRST_REACH = 2.0
"""What an untrained head predicts from a position to each side of its box, in squares of the level; levels take boxes up to 8."""


class _Head(FCOSHead):
    def compute_loss(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        num_positives = int(torch.stack([(matched >= 0).sum() for matched in matched_idxs]).sum())
        return rescale(losses, num_positives, head_outputs["cls_logits"].device)


class FcosDetector(Detector):
    """See `build`."""

    def __init__(self, model: FCOS, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.model = model
        self.strides = strides
        width = model.backbone.out_channels
        assert isinstance(width, int)
        self.channels = (width,) * len(strides)

    def features(self, images: Tensor) -> list[Tensor]:
        """The pyramid, finest first."""
        return list(self.model.backbone(images).values())

    def anchors(self, images: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """For each image one square [H * W of all levels, 4] a position."""
        sizes = [(images.shape[-2], images.shape[-1])] * images.shape[0]
        anchors: list[Tensor] = self.model.anchor_generator(ImageList(images, sizes), list(features))
        return anchors

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """Raw head outputs are "cls_logits" [B, HW, K], "bbox_regression" [B, HW, 4], "bbox_ctrness" [B, HW, 1] a level."""
        features = self.features(images)
        head = self.model.head(features)
        sizes = [level.shape[-2] * level.shape[-1] for level in features]
        losses: dict[str, Tensor] = {}
        if targets is not None:
            rows = [{"boxes": target.boxes, "labels": target.labels} for target in targets]
            with torch.autocast(images.device.type, enabled=False):
                full = {name: tensor.float() for name, tensor in head.items()}
                losses = self.model.compute_loss(rows, full, self.anchors(images, features), sizes)
        levels = {name: tensor.split(sizes, dim=1) for name, tensor in head.items()}
        return Outputs(tuple(features), self.strides, levels, losses)

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return FcosGraph(self, options)


class FcosGraph(Graph):
    """The deployed form of an FcosDetector: the same decisions as torchvision's FCOS in eval mode, at a fixed shape."""

    def __init__(self, detector: FcosDetector, options: GraphOptions) -> None:
        super().__init__()
        self.detector = detector
        self.options = options

    def forward(self, images: Tensor) -> Answer:
        """See Graph.forward."""
        features = self.detector.features(images)
        head = self.detector.model.head(features)
        sizes = [level.shape[-2] * level.shape[-1] for level in features]
        raw = [head[name] for name in ("cls_logits", "bbox_regression", "bbox_ctrness")]
        anchors = self.detector.anchors(images[:1], features)[0]
        levels = zip(*(tensor.float().split(sizes, dim=1) for tensor in raw), anchors.split(sizes), strict=True)
        parts = [self._candidates(logits, deltas, centerness, boxes) for logits, deltas, centerness, boxes in levels]
        scores, boxes, labels = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
        height, width = images.shape[-2], images.shape[-1]
        limit = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        answer = select(boxes, scores, labels, self.options.iou_threshold, self.options.max_detections)
        return Answer(*answer, head=tuple(raw))

    def _candidates(self, logits: Tensor, deltas: Tensor, centerness: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The level's best scores [B, N], their boxes [B, N, 4] and labels [B, N]."""
        num_classes = logits.shape[-1]
        scores = torch.sqrt(torch.sigmoid(logits) * torch.sigmoid(centerness)).flatten(1)
        scores, chosen = torch.topk(scores, min(self.options.candidates, scores.shape[1]), dim=1)
        scores = torch.where(scores > self.options.score_threshold, scores, torch.zeros_like(scores))
        place = torch.div(chosen, num_classes, rounding_mode="floor")
        deltas = torch.gather(deltas, 1, place[..., None].expand(-1, -1, 4))
        squares = anchors[place]
        size = squares[..., 2:] - squares[..., :2]
        center = (squares[..., :2] + squares[..., 2:]) / 2
        boxes = torch.cat((center - deltas[..., :2] * size, center + deltas[..., 2:] * size), dim=-1)
        return scores, boxes, chosen - place * num_classes


def build(
    num_classes: int,
    *,
    backbone: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50",
    width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 64,
    backbone_weights: str | None = None,
    norm: Literal["batch", "group", "frozen"] = "batch",
    fpn_channels: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] = 256,
    strides: Annotated[tuple[Literal[4, 8, 16, 32, 64], ...], Field(min_length=1)] = (8, 16, 32, 64),
    head_convs: Annotated[int, Field(ge=1, le=8)] = 4,
    range_scale: Annotated[float, Field(gt=0, le=4)] = 1.0,
) -> Detector:
    """An FCOS detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        width: channels after the stem; 64 is torchvision's ResNet.
        backbone_weights: a torchvision weights name such as IMAGENET1K_V1.
        norm: of the backbone.
        range_scale: a level of stride s takes objects reaching 4 to 8 times s * range_scale px from their centre.

    Raises:
        ValueError: options that do not go together.
    """
    pyramid = PyramidBackbone(backbone, width, norm, fpn_channels, strides, backbone_weights)
    head = _Head(fpn_channels, 1, num_classes, head_convs)
    head.classification_head = FCOSClassificationHead(fpn_channels, 1, num_classes, head_convs, norm_layer=group_norm)
    head.regression_head = FCOSRegressionHead(fpn_channels, 1, head_convs, norm_layer=group_norm)
    first_reach = head.regression_head.bbox_reg.bias
    assert first_reach is not None
    nn.init.constant_(first_reach, _FIRST_REACH)
    sizes = tuple((max(1, round(stride * range_scale)),) for stride in strides)
    model = FCOS(
        pyramid,
        num_classes,
        anchor_generator=AnchorGenerator(sizes, ((1.0,),) * len(strides)),
        head=head,
        center_sampling_radius=1.5 / range_scale,
    )
    return FcosDetector(model, strides)
