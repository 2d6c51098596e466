"""The deployed form of detectors that refine their proposals: mmdet's decisions at a fixed shape."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.detectors import Graph, GraphOptions, GraphOutput
from stages.detectors.boxes.coding import clip, decode
from stages.detectors.boxes.nms import select_per_class
from stages.detectors.two_stage.adaptive_roi_align import gather_pool
from stages.detectors.two_stage.proposals import Proposals, propose
from stages.detectors.two_stage.refining.heads import BOX_SIZE, MASK_SIZE
from stages.detectors.two_stage.refining.model import RefinementModel


class RefinementGraph(Graph):
    """Shares the weights of `model`.

    Args:
        rpn_candidates: number of regions per level that are considered before suppression.
    """

    def __init__(self, model: RefinementModel, options: GraphOptions, rpn_candidates: int) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.proposing = model.rpn_head.recipe.of_graph(rpn_candidates, options.proposals)

    def forward(self, images: Tensor) -> GraphOutput:
        """See Graph.forward."""
        size = images.shape[-2], images.shape[-1]
        levels = self.model.levels(images)
        logits, deltas = self.model.rpn_head(levels)
        proposals = propose(logits, deltas, torch.cat(self.model.rpn_head.anchors(levels)), size, self.proposing)
        raw, pooled = [*logits, *deltas], []
        boxes, all_logits = proposals.boxes, []
        stages = self.model.rules.stages
        for index, (stage, head) in enumerate(zip(stages, self.model.roi_head.bbox_head, strict=True)):
            pooled.append(self._pool(levels, boxes, BOX_SIZE))
            class_logits, box_deltas = head(pooled[-1])
            raw += [class_logits, box_deltas]
            all_logits.append(class_logits.float().unflatten(0, (-1, boxes.shape[1])))
            moves = box_deltas.float().unflatten(0, (-1, boxes.shape[1])).unflatten(2, (-1, 4)).transpose(1, 2)
            # one row of boxes per class, or one in all
            found = clip(decode(moves, boxes[:, None], stage.coding, limit_shrinking=True), *size)
            if index + 1 < len(stages):
                boxes = found[:, 0]
        mean = sum(all_logits[1:], all_logits[0]) / len(stages)
        boxes, scores, labels, settled = self._select(mean, found, proposals)
        converged = proposals.converged & settled
        if not len(self.model.roi_head.mask_head):
            return GraphOutput(boxes, scores, labels, converged, head=tuple(raw), pooled=tuple(pooled))
        pooled.append(self._pool(levels, boxes, MASK_SIZE))
        shapes = [head(pooled[-1]) for head in self.model.roi_head.mask_head]
        masks = _masks(shapes, scores, labels)
        return GraphOutput(boxes, scores, labels, converged, (*raw, *shapes), masks, tuple(pooled))

    def _pool(self, levels: Sequence[Tensor], boxes: Tensor, output_size: int) -> Tensor:
        pooled = [level.float() for level in self.model.pooled(levels)]
        return gather_pool(pooled, self.model.pooled_strides, boxes, output_size)

    def _select(self, logits: Tensor, boxes: Tensor, proposals: Proposals) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes [B, K, 4], scores [B, K], labels [B, K] and whether suppression has converged [B].

        Args:
            logits: [B, N, classes + 1], the background last; boxes: [B, classes, N, 4], or [B, 1, N, 4] if they share them.
        """
        scores = torch.softmax(logits, dim=-1)[..., :-1].transpose(1, 2)
        real = (scores > self.options.score_threshold) & proposals.valid[:, None]
        scores = torch.where(real, scores, torch.zeros_like(scores))
        limits = self.options.iou_threshold, self.options.max_detections, self.options.candidates
        shared = len(self.model.rules.stages) > 1
        return select_per_class(boxes[:, 0] if shared else boxes, scores, *limits, agnostic=self.options.agnostic)


def _masks(shapes: Sequence[Tensor], scores: Tensor, labels: Tensor) -> Tensor:
    """Each detection's mask [B, K, h, w], the mean of the stages' probabilities, 0 where there is no detection.

    Args:
        shapes: logits [B * K, classes, h, w] per stage.
        scores, labels: [B, K].
    """
    row = torch.arange(shapes[0].shape[0], device=labels.device) * shapes[0].shape[1] + labels.flatten()
    likely = [torch.sigmoid(torch.index_select(shape.float().flatten(0, 1), 0, row)) for shape in shapes]
    masks = (sum(likely[1:], likely[0]) / len(likely)).unflatten(0, (-1, labels.shape[1]))
    return torch.where(scores[..., None, None] > 0, masks, torch.zeros_like(masks))
