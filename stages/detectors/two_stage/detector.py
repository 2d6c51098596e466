"""Faster R-CNN and Mask R-CNN on torchvision's modules, in the form that training and distillation use."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.rpn import concat_box_prediction_layers

from stages.detectors import Decoded, Detector, Graph, GraphOptions, HeadShape, Outputs, Regions, Target
from stages.detectors.boxes.coding import decode
from stages.detectors.two_stage.graph import TwoStageGraph
from stages.detectors.two_stage.losses import proposal_losses, region_losses, rows
from stages.detectors.two_stage.model import PooledPyramid, anchors_of


class TwoStageDetector(Detector):
    """A torchvision model as assembled by `stages.detectors.two_stage.model`.

    Args:
        rpn_candidates: number of regions per level that the deployed graph considers before suppression.
    """

    kind = "two_stage"
    gives = ("pyramid", "decoded", "regions", "teacher_head")

    def __init__(self, model: FasterRCNN, pyramid: PooledPyramid, rpn_candidates: int) -> None:
        super().__init__()
        self.model = cast("Any", model)  # its parts are attributes that torch types as tensors or modules
        self.pyramid = pyramid
        self.rpn_candidates = rpn_candidates
        self.strides = pyramid.strides
        self.channels = (int(self.model.backbone.out_channels),) * len(pyramid.strides)
        self.head_shape = HeadShape(tuple(self.model.rpn.anchor_generator.num_anchors_per_location()))
        self.mask_frame = "box" if self.model.roi_heads.has_mask() else None

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """See Detector.forward; proposals are best first. The second stage runs only for the losses.

        Raises:
            DataError: a detector with masks is given objects without masks.
        """
        size = images.shape[-2], images.shape[-1]
        features = list(self.model.backbone(images).values())
        logits, deltas = self.model.rpn.head(features)
        anchors = anchors_of(self.model, images, features)
        counts = [level[0].numel() for level in logits]
        flat = [tensor.float() for tensor in concat_box_prediction_layers(logits, deltas)]
        with torch.autocast(images.device.type, enabled=False), torch.no_grad():
            boxes = self.model.rpn.box_coder.decode(flat[1], anchors).reshape(len(images), -1, 4)
            proposals, _ = self.model.rpn.filter_proposals(boxes, flat[0], [size] * len(images), counts)
        losses: dict[str, Tensor] = {}
        if targets is not None:
            given = rows(targets, size, masks=self.mask_frame is not None)
            pooled = {str(index): features[index] for index in self.pyramid.pooled}
            with torch.autocast(images.device.type, enabled=False):
                losses = proposal_losses(self.model, flat[0], flat[1], anchors, given)
            losses |= region_losses(self.model, pooled, proposals, given, size)
        head = _rows(len(images), flat, counts)
        return Outputs(tuple(features), self.strides, head, losses, tuple(proposals), size, self)

    def decoded(self, outputs: Outputs) -> Decoded:
        """See Detector.decoded; the boxes are those that proposals are chosen from."""
        deltas = outputs.head["box_deltas"]
        anchors = anchors_of(self.model, deltas[0].new_empty(1, 0, *outputs.size), outputs.pyramid)[0]
        levels = anchors.split([level.shape[1] for level in deltas])
        return Decoded(tuple(decode(own.float(), level) for own, level in zip(deltas, levels, strict=True)), levels)

    def regions(self, outputs: Outputs, boxes: Sequence[Tensor], *, masks: bool) -> Regions:
        """See Detector.regions."""
        heads, given, sizes = self.model.roi_heads, list(boxes), [outputs.size] * len(boxes)
        features = {str(index): outputs.pyramid[index] for index in self.pyramid.pooled}
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, given, sizes)))
        deltas = deltas.float().reshape(*logits.shape, 4)[:, 1:]
        found = decode(deltas, torch.cat(given)[:, None], heads.box_coder.weights)
        shapes = None
        if masks and heads.has_mask():
            shapes = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, given, sizes))).float()[:, 1:]
        return Regions(logits.float()[:, 1:], logits.float()[:, 0], found, shapes)

    def head_on(self, pyramid: Sequence[Tensor], size: tuple[int, int]) -> Outputs:
        """See Detector.head_on: the proposal network at once, the second stage if it is asked for regions; no proposals."""
        logits, deltas = self.model.rpn.head(list(pyramid))
        counts = [level[0].numel() for level in logits]
        flat = [tensor.float() for tensor in concat_box_prediction_layers(logits, deltas)]
        return Outputs(tuple(pyramid), self.strides, _rows(len(pyramid[0]), flat, counts), size=size, network=self)

    def walk(self, images: Tensor, options: GraphOptions) -> None:
        """See Detector.walk: the second stage too, on as many regions as the graph considers."""
        self(images)
        heads = self.model.roi_heads
        regions = images.new_zeros(options.proposals, self.channels[0], 7, 7)
        heads.box_predictor(heads.box_head(regions))
        if self.mask_frame is not None:
            heads.mask_predictor(heads.mask_head(images.new_zeros(options.max_detections, self.channels[0], 14, 14)))

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return TwoStageGraph(self.model, self.pyramid, options, self.rpn_candidates)


def _rows(batch: int, flat: Sequence[Tensor], counts: list[int]) -> dict[str, tuple[Tensor, ...]]:
    """See Outputs.head; `flat` are logits [B * N, 1] and deltas [B * N, 4], `counts` the rows of each level."""
    names = "objectness", "box_deltas"
    return {name: tensor.reshape(batch, -1, tensor.shape[-1]).split(counts, dim=1) for name, tensor in zip(names, flat, strict=True)}
