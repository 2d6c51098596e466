"""The deployed form of Grid R-CNN: mmdet's decisions at a fixed shape."""

import torch
from torch import Tensor

from stages.detectors import Graph, GraphOptions, GraphOutput
from stages.detectors.boxes.coding import clip
from stages.detectors.boxes.nms import select_per_class
from stages.detectors.two_stage.adaptive_roi_align import gather_pool
from stages.detectors.two_stage.grid.heads import GRID_SIZE
from stages.detectors.two_stage.grid.heat_maps import read
from stages.detectors.two_stage.grid.model import GridModel
from stages.detectors.two_stage.proposals import propose
from stages.detectors.two_stage.refining.heads import BOX_SIZE


class GridRcnnGraph(Graph):
    """Shares the weights of `model`; proposals are classified and suppressed, and grids give those that are left their boxes.

    Args:
        rpn_candidates: number of regions per level that are considered before suppression.
    """

    def __init__(self, model: GridModel, options: GraphOptions, rpn_candidates: int) -> None:
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
        pooled = [level.float() for level in self.model.pooled(levels)]
        for_classes = gather_pool(pooled, self.model.pooled_strides, proposals.boxes, BOX_SIZE)
        class_logits = self.model.roi_head.bbox_head(for_classes)
        likely = torch.softmax(class_logits.float().unflatten(0, (-1, proposals.boxes.shape[1])), dim=-1)[..., :-1].transpose(1, 2)
        real = (likely > self.options.score_threshold) & proposals.valid[:, None]
        limits = self.options.iou_threshold, self.options.max_detections, self.options.candidates
        scores = torch.where(real, likely, torch.zeros_like(likely))
        regions, scores, labels, settled = select_per_class(proposals.boxes, scores, *limits, agnostic=self.options.agnostic)
        for_grids = gather_pool(pooled, self.model.pooled_strides, regions, GRID_SIZE)
        maps = self.model.roi_head.grid_head(for_grids)
        boxes = clip(read(maps.float().unflatten(0, (-1, regions.shape[1])), regions), *size)
        boxes = torch.where(scores[..., None] > 0, boxes, torch.zeros_like(boxes))
        raw = (*logits, *deltas, class_logits, maps)
        return GraphOutput(boxes, scores, labels, proposals.converged & settled, head=raw, pooled=(for_classes, for_grids))
