"""The deployed form of Faster R-CNN and Mask R-CNN: torchvision's decisions at a fixed shape."""

from typing import Any, cast

import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FasterRCNN

from stages.detectors import Graph, GraphOptions, GraphOutput
from stages.detectors.boxes.coding import clip, decode
from stages.detectors.boxes.nms import select_per_class
from stages.detectors.two_stage.model import PooledPyramid, anchors_of
from stages.detectors.two_stage.proposals import ProposalOptions, Proposals, propose
from stages.detectors.two_stage.roi_align import roi_align

_MIN_BOX_PX = 1e-2
"""torchvision drops detections with a shorter side."""


class TwoStageGraph(Graph):
    """Shares the weights of `model`.

    Args:
        rpn_candidates: number of regions per level that are considered before suppression.
    """

    def __init__(self, model: FasterRCNN, pyramid: PooledPyramid, options: GraphOptions, rpn_candidates: int) -> None:
        super().__init__()
        self.model = cast("Any", model)  # its parts are attributes that torch types as tensors or modules
        self.pyramid = pyramid
        self.options = options
        rpn = self.model.rpn
        self.proposing = ProposalOptions(rpn_candidates, options.proposals, rpn.nms_thresh, rpn.score_thresh, rpn.min_size)

    def forward(self, images: Tensor) -> GraphOutput:
        """See Graph.forward."""
        size = images.shape[-2], images.shape[-1]
        features = list(self.model.backbone(images).values())
        logits, deltas = self.model.rpn.head(features)
        proposals = propose(logits, deltas, anchors_of(self.model, images[:1], features)[0], size, self.proposing)
        heads = self.model.roi_heads
        pooled = self._pool(features, proposals.boxes, heads.box_roi_pool.output_size[0])
        class_logits, box_deltas = heads.box_predictor(heads.box_head(pooled))
        boxes, scores, labels, settled = self._detect(class_logits.float(), box_deltas.float(), proposals, size)
        raw = (*logits, *deltas, class_logits, box_deltas)
        converged = proposals.converged & settled
        if not heads.has_mask():
            return GraphOutput(boxes, scores, labels, converged, head=raw, pooled=(pooled,))
        mask_pooled = self._pool(features, boxes, heads.mask_roi_pool.output_size[0])
        mask_logits = heads.mask_predictor(heads.mask_head(mask_pooled))
        masks = _masks(mask_logits.float(), scores, labels)
        return GraphOutput(boxes, scores, labels, converged, (*raw, mask_logits), masks, (pooled, mask_pooled))

    def _pool(self, features: list[Tensor], boxes: Tensor, output_size: int) -> Tensor:
        levels = [features[index].float() for index in self.pyramid.pooled]
        return roi_align(levels, [self.pyramid.strides[index] for index in self.pyramid.pooled], boxes, output_size)

    def _detect(
        self, class_logits: Tensor, box_deltas: Tensor, proposals: Proposals, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes [B, K, 4], scores [B, K], labels [B, K] and whether suppression has converged [B].

        Args:
            class_logits: [B * N, classes + 1], the background first; box_deltas: [B * N, (classes + 1) * 4].
        """
        num_regions, num_outputs = proposals.boxes.shape[1], class_logits.shape[-1]
        scores = torch.softmax(class_logits, dim=-1).reshape(-1, num_regions, num_outputs)[..., 1:].transpose(1, 2)
        deltas = box_deltas.reshape(-1, num_regions, num_outputs, 4)[:, :, 1:].transpose(1, 2)
        boxes = clip(decode(deltas, proposals.boxes[:, None], self.model.roi_heads.box_coder.weights), *size)
        large = ((boxes[..., 2:] - boxes[..., :2]) >= _MIN_BOX_PX).all(dim=-1)
        real = large & (scores > self.options.score_threshold) & proposals.valid[:, None]
        scores = torch.where(real, scores, torch.zeros_like(scores))
        limits = self.options.iou_threshold, self.options.max_detections, self.options.candidates
        return select_per_class(boxes, scores, *limits, agnostic=self.options.agnostic)


def _masks(logits: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Each detection's mask [B, K, h, w] as probabilities, 0 where there is no detection.

    Args:
        logits: [B * K, classes + 1, h, w], the background first.
        scores, labels: [B, K].
    """
    num_detections, num_outputs = labels.shape[1], logits.shape[1]
    row = torch.arange(logits.shape[0], device=logits.device) * num_outputs + labels.flatten() + 1
    masks = torch.sigmoid(torch.index_select(logits.flatten(0, 1), 0, row))
    masks = masks.reshape(-1, num_detections, *masks.shape[1:])
    return torch.where(scores[..., None, None] > 0, masks, torch.zeros_like(masks))
