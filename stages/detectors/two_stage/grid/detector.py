"""Grid R-CNN in the form that training and distillation use.

Lu et al., "Grid R-CNN", CVPR 2019, https://arxiv.org/abs/1811.12030, and "Grid R-CNN Plus: Faster and Better", 2019,
https://arxiv.org/abs/1906.05688.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stages.detectors import Graph, GraphOptions, Outputs, Regions, Target
from stages.detectors.two_stage.adaptive_roi_align import pool
from stages.detectors.two_stage.grid.graph import GridRcnnGraph
from stages.detectors.two_stage.grid.heads import GRID_SIZE
from stages.detectors.two_stage.grid.heat_maps import draw, read
from stages.detectors.two_stage.grid.model import GridModel
from stages.detectors.two_stage.refining.detector import ProposingDetector
from stages.detectors.two_stage.refining.heads import BOX_SIZE
from stages.detectors.two_stage.refining.losses import Sampled, sample_regions
from stages.processes import rescale

_OVERLAP = 0.5
_GRID_WEIGHT = 15.0


class GridDetector(ProposingDetector):
    """A GridModel; see ProposingDetector.

    jitter: by how much regions are moved and stretched at random before their grids are learned, as a share of their size.
    most_grids: maximum number of regions per batch whose grids are learned.
    """

    model: GridModel
    jitter = 0.15
    most_grids = 192

    def region_losses(
        self, levels: list[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """See ProposingDetector.region_losses."""
        pairs = zip(proposals, targets, strict=True)
        chosen = [sample_regions(*pair, _OVERLAP, self.batch_size, claim=_OVERLAP) for pair in pairs]
        logits = self.model.roi_head.bbox_head(self._pool(levels, [one.boxes for one in chosen], BOX_SIZE)).float()
        labels = [_labels(one, target, logits.shape[1] - 1) for one, target in zip(chosen, targets, strict=True)]
        classes = functional.cross_entropy(logits, torch.cat(labels), reduction="sum") / max(len(logits), 1)
        return rescale({"loss_classifier": classes}, len(logits), logits.device) | self._grid_losses(levels, chosen, targets, size)

    def _grid_losses(
        self, levels: list[Tensor], chosen: Sequence[Sampled], targets: Sequence[Target], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The loss of the points of regions with an object."""
        head = self.model.roi_head.grid_head
        regions = [jittered(one.boxes[: len(one.objects)], self.jitter, size) for one in chosen]
        boxes = torch.cat([target.boxes[one.objects] for one, target in zip(chosen, targets, strict=True)])
        if not len(boxes):
            nothing = torch.stack([parameter.sum() for parameter in head.parameters()]).sum() * 0
            return rescale({"loss_grid": nothing}, 0, nothing.device)
        some = torch.randperm(len(boxes), device=boxes.device)[: self.most_grids]
        own = head.both(self._pool(levels, regions, GRID_SIZE)[some])
        wanted = draw(torch.cat(regions)[some], boxes[some])
        loss = torch.stack([functional.binary_cross_entropy_with_logits(maps.float(), wanted) for maps in own]).sum()
        return rescale({"loss_grid": _GRID_WEIGHT * loss}, len(some), loss.device)

    def _pool(self, levels: Sequence[Tensor], boxes: Sequence[Tensor], side: int) -> Tensor:
        return pool(levels, self.model.pooled_strides, boxes, side)

    def regions(self, outputs: Outputs, boxes: Sequence[Tensor], *, masks: bool) -> Regions:
        """See Detector.regions; boxes are those that the grids show."""
        heads, levels = self.model.roi_head, self.model.pooled(outputs.pyramid)
        logits = heads.bbox_head(self._pool(levels, boxes, BOX_SIZE)).float()
        given = torch.cat(list(boxes))
        found = read(heads.grid_head(self._pool(levels, boxes, GRID_SIZE)).float(), given) if len(given) else given
        return Regions(logits[:, :-1], logits[:, -1], found[:, None])

    def walk(self, images: Tensor, options: GraphOptions) -> None:
        """See Detector.walk: both heads, too, on as many regions as the graph considers."""
        self(images)
        for head, count, side in (
            (self.model.roi_head.bbox_head, options.proposals, BOX_SIZE),
            (self.model.roi_head.grid_head, options.max_detections, GRID_SIZE),
        ):
            head(images.new_zeros(count, self.channels[0], side, side))

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return GridRcnnGraph(self.model, options, self.rpn_candidates)


def jittered(boxes: Tensor, amplitude: float, size: tuple[int, int]) -> Tensor:
    """Boxes [N, 4] in px, moved and stretched by random shares of their size up to `amplitude`, within the image."""
    moves = (2 * torch.rand(len(boxes), 4, device=boxes.device) - 1) * amplitude
    center, extent = (boxes[:, 2:] + boxes[:, :2]) / 2, boxes[:, 2:] - boxes[:, :2]
    center, extent = center + extent * moves[:, :2], extent * (1 + moves[:, 2:])
    last = torch.tensor([size[1] - 1, size[0] - 1] * 2, dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(torch.cat((center - extent / 2, center + extent / 2), dim=1).clamp(min=0), last)


def _labels(one: Sampled, target: Target, background: int) -> Tensor:
    labels = torch.full((len(one.boxes),), background, device=one.boxes.device)
    labels[: len(one.objects)] = target.labels[one.objects]
    return labels
