"""Selects regions for the second stage from a region proposal network's raw outputs, at a fixed shape.

Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015,
https://arxiv.org/abs/1506.01497, with torchvision's decisions: each level's best are decoded and clipped, those without size are left
out, overlaps are suppressed within each level, and the best of all levels are kept. Departure: regions are ordered by their logits;
torchvision orders them by the sigmoids, in which float32 no longer tells large logits apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from stages.detectors.boxes.coding import clip, decode
from stages.detectors.boxes.nms import best, dense_nms

_LOWEST = -1e30
"""Represents a missing logit; finite, because not every runtime sorts infinities."""


@dataclass(frozen=True)
class ProposalOptions:
    """How proposals are chosen.

    candidates: number per level, before suppression. count: number over all levels, after it.
    score_threshold: regions with an objectness (0 to 1) below this are dropped. min_size_px: so are those with a shorter side.
    limit_shrinking: see `decode`.
    """

    candidates: int
    count: int
    iou_threshold: float
    score_threshold: float
    min_size_px: float
    limit_shrinking: bool = False


class Proposals(NamedTuple):
    """Boxes [B, N, 4] in px of the network input, zeros where there is none; valid [B, N] bool; converged [B] bool."""

    boxes: Tensor
    valid: Tensor
    converged: Tensor


def propose(
    logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Tensor, size: tuple[int, int], options: ProposalOptions
) -> Proposals:
    """The best regions of each image.

    Args:
        logits: one [B, A, H, W] per level, A anchors per position.
        deltas: one [B, A * 4, H, W] per level.
        anchors: [all H * W * A, 4], level after level, the position's anchors next to each other.
        size: the image's height and width in px.
    """
    counts = [level.shape[1] * level.shape[2] * level.shape[3] for level in logits]
    parts = [_best(*level, options.candidates) for level in zip(logits, deltas, anchors.split(counts), strict=True)]
    scores, moves, places = (torch.cat([part[index] for part in parts], dim=1) for index in range(3))
    boxes = clip(decode(moves, places, limit_shrinking=options.limit_shrinking), *size)
    sides = boxes[..., 2:] - boxes[..., :2]
    valid = (sides >= options.min_size_px).all(dim=-1) & (torch.sigmoid(scores) >= options.score_threshold)
    boxes = torch.where(valid[..., None], boxes, torch.zeros_like(boxes))
    keep, converged = _suppress(boxes, [part[0].shape[1] for part in parts], options.iou_threshold)
    keys = torch.where(valid & (keep > 0.5), scores, torch.full_like(scores, _LOWEST))
    keys, order = best(keys, min(options.count, keys.shape[1]))
    boxes = torch.gather(boxes, 1, order[..., None].expand(-1, -1, 4))
    valid = keys > _LOWEST / 2
    return Proposals(torch.where(valid[..., None], boxes, torch.zeros_like(boxes)), valid, converged)


def _best(logits: Tensor, deltas: Tensor, anchors: Tensor, num_best: int) -> tuple[Tensor, Tensor, Tensor]:
    """The level's best logits [B, N], descending, their deltas [B, N, 4] and their anchors [B, N, 4]."""
    logits = logits.float().permute(0, 2, 3, 1).flatten(1)
    deltas = deltas.float().unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
    logits, order = best(logits, min(num_best, logits.shape[1]))
    return logits, torch.gather(deltas, 1, order[..., None].expand(-1, -1, 4)), anchors[order]


def _suppress(boxes: Tensor, counts: Sequence[int], iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Which of the levels' boxes [B, N, 4] stay, `counts` per level, as 0 and 1 [B, N], and whether that is final [B].

    Full levels are processed together, and so are the smaller ones, padded with empty boxes: this makes the graph much smaller.
    """
    levels = boxes.split(list(counts), dim=1)
    keeps, settled = [], []
    for _, numbers in groupby(range(len(counts)), key=lambda number: counts[number] == counts[0]):
        group = [levels[number] for number in numbers]
        size = max(level.shape[1] for level in group)
        filled = torch.stack([functional.pad(level, (0, 0, 0, size - level.shape[1])) for level in group], dim=1)
        keep, converged = dense_nms(filled, None, iou_threshold)
        keeps += [keep[:, index, : level.shape[1]] for index, level in enumerate(group)]
        settled.append(converged)
    return torch.cat(keeps, dim=1), torch.cat(settled, dim=1).all(dim=1)
