"""Which anchors learn which object, by the statistics of their overlaps.

Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection", CVPR 2020,
https://arxiv.org/abs/1912.02424.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.detectors.boxes.nms import pairwise_iou

_INSIDE_PX = 0.01
"""How far inside its object the center of an assigned anchor is at least."""


def nearest_above_average(anchors: Tensor, sizes: Sequence[int], boxes: Tensor, nearest: int) -> Tensor:
    """For each anchor the index of its object, or -1.

    An object's candidates are the `nearest` anchors of each level. Those that overlap it by at least the mean plus the standard deviation
    of all its candidates' overlaps, and whose centers are inside it, are its own; an anchor of several objects is that of the one that it
    overlaps most.

    Args:
        anchors: [N, 4] of all levels, in px; sizes: their numbers per level.
        boxes: [M, 4] in px.

    Returns:
        [N] int64
    """
    if not len(boxes):
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    overlaps = pairwise_iou(anchors, boxes)
    candidates, enough = enough_overlap(anchors, sizes, boxes, nearest, overlaps)
    own = overlaps.gather(0, candidates)
    center = ((anchors[:, :2] + anchors[:, 2:]) / 2)[candidates]
    inside = torch.cat((center - boxes[:, :2], boxes[:, 2:] - center), dim=-1).amin(dim=-1) > _INSIDE_PX
    wanted = torch.full_like(overlaps, -1.0).scatter(0, candidates, torch.where((own >= enough) & inside, own, -torch.ones_like(own)))
    most, index = wanted.max(dim=1)
    return torch.where(most >= 0, index, torch.full_like(index, -1))


def enough_overlap(anchors: Tensor, sizes: Sequence[int], boxes: Tensor, nearest: int, overlaps: Tensor) -> tuple[Tensor, Tensor]:
    """Each object's candidates [C, M], indices of anchors, and the overlap [M] that those have which learn it; M is at least 1."""
    places, middles = (anchors[:, :2] + anchors[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = (places[:, None] - middles[None]).pow(2).sum(dim=-1).sqrt()
    chosen, first = [], 0
    for level in distances.split(list(sizes)):
        chosen.append(level.topk(min(nearest, len(level)), dim=0, largest=False).indices + first)
        first += len(level)
    candidates = torch.cat(chosen)
    own = overlaps.gather(0, candidates)
    return candidates, own.mean(dim=0) + (own.std(dim=0) if len(own) > 1 else 0)


@dataclass(frozen=True)
class Positives:
    """The anchors of a batch that learn objects, P in total, image by image.

    where: [B, N] bool, which they are; labels: [P]; boxes: [P, 4], their objects'; anchors: [P, 4].
    count: the number, but at least 1 for each image. scores: [P], how sure the objects are, 1 unless they are detections.
    """

    where: Tensor
    labels: Tensor
    boxes: Tensor
    anchors: Tensor
    count: int
    scores: Tensor

    def classes(self, num_classes: int, probability: Tensor | None = None) -> Tensor:
        """[B, N, num_classes], its probability [P], or 1, where an anchor learns an object of the class, otherwise 0."""
        wanted = torch.zeros(*self.where.shape, num_classes, device=self.where.device)
        wanted[(*self.where.nonzero(as_tuple=True), self.labels)] = (
            torch.ones_like(self.boxes[:, 0]) if probability is None else probability
        )
        return wanted


def positives(targets: Sequence[Mapping[str, Tensor]], anchors: Tensor, sizes: Sequence[int], nearest: int) -> Positives:
    """See `nearest_above_average`; `targets` have "boxes" [M, 4] and "labels" [M] of each image."""
    return gathered(targets, anchors, [nearest_above_average(anchors, sizes, target["boxes"], nearest) for target in targets])


def gathered(targets: Sequence[Mapping[str, Tensor]], anchors: Tensor, matched: Sequence[Tensor]) -> Positives:
    """Of all anchors those that are matched, [N] for each image, to an object's index and not to -1."""
    where = [one >= 0 for one in matched]
    index = [one[mine] for one, mine in zip(matched, where, strict=True)]
    labels = torch.cat([target["labels"][one] for target, one in zip(targets, index, strict=True)])
    boxes = torch.cat([target["boxes"][one] for target, one in zip(targets, index, strict=True)])
    count = sum(max(1, len(one)) for one in index)
    scores = [
        target["scores"][one] if "scores" in target else target["boxes"][one, 0].new_ones(len(one))
        for target, one in zip(targets, index, strict=True)
    ]
    return Positives(torch.stack(where), labels, boxes, torch.cat([anchors[mine] for mine in where]), count, torch.cat(scores))
