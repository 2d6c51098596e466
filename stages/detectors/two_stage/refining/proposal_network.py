"""A region proposal network with unrounded anchors: its outputs, losses and proposals.

Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015,
https://arxiv.org/abs/1506.01497, as in mmdet. Departures: regions are ordered by their logits instead of their sigmoids, in which float32
no longer tells large logits apart; overlaps are suppressed level by level instead of shifting levels apart, which rounds coordinates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms

from stages.detectors import Target
from stages.detectors.boxes.coding import clip, decode, encode
from stages.detectors.boxes.matching import MatchRule, assign
from stages.detectors.two_stage.assignment import sample
from stages.detectors.two_stage.proposals import ProposalOptions
from stages.processes import rescale

RATIOS = (0.5, 1.0, 2.0)
MIN_SIZE_PX = 1e-12
"""Regions of any size are kept, but not those without."""
_RULE = MatchRule(object_from=0.7, background_below=0.3, claim=0.3)
_POSITIVE_SHARE = 0.5
_CANDIDATES = 2000


@dataclass(frozen=True)
class ProposalRecipe:
    """What a paper prescribes of its proposals.

    count: number in training. iou_threshold: overlap from which the weaker of two is suppressed.
    beta: where the loss of boxes turns from a square to a line; 0: a line everywhere.
    within: whether only anchors within the image are learned. batch_size: maximum number of them per image that are learned at a time.
    """

    count: int
    iou_threshold: float
    beta: float
    within: bool
    batch_size: int = 256

    def of_graph(self, candidates: int, count: int) -> ProposalOptions:
        """How the deployed graph chooses `count` of `candidates` per level."""
        return ProposalOptions(candidates, count, self.iou_threshold, 0.0, MIN_SIZE_PX, limit_shrinking=True)


CASCADE_PROPOSALS = ProposalRecipe(count=2000, iou_threshold=0.7, beta=1 / 9, within=True)
"""Cascade R-CNN's."""

SINGLE_PROPOSALS = ProposalRecipe(count=1000, iou_threshold=0.7, beta=0.0, within=False)
"""Faster R-CNN's and Mask R-CNN's."""


class ProposalRows(NamedTuple):
    """What the network predicts, level by level: logits [B, N, 1], deltas [B, N, 4], float32, and anchors [N, 4] in px."""

    logits: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]
    anchors: tuple[Tensor, ...]


class ProposalNetwork(nn.Module):
    """Maps each level [B, C, H, W] to logits [B, 3, H, W] and deltas [B, 12, H, W].

    Args:
        scale: side of a level's anchors, in strides.
    """

    def __init__(self, channels: int, strides: Sequence[int], scale: float, recipe: ProposalRecipe) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.scale = scale
        self.recipe = recipe
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, len(RATIOS), 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * len(RATIOS), 1)
        for layer in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits and deltas of every level."""
        hidden = [functional.relu(self.rpn_conv(level)) for level in levels]
        return [self.rpn_cls(level) for level in hidden], [self.rpn_reg(level) for level in hidden]

    def rows(self, levels: Sequence[Tensor]) -> ProposalRows:
        """The outputs in rows, with their anchors."""
        logits, deltas = self(levels)
        found, moves = (tuple(_rows(level, width) for level in kind) for kind, width in ((logits, 1), (deltas, 4)))
        return ProposalRows(found, moves, self.anchors(levels))

    def anchors(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Each level's anchors [H * W * A, 4] in px: positions row by row, a position's together; around the corners of cells."""
        return tuple(_anchors(level, stride, self.scale) for level, stride in zip(levels, self.strides, strict=True))

    def proposals(self, rows: ProposalRows, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """The best regions [N, 4] of each image, best first, without gradient; `size` is height and width in px."""
        return tuple(self._best(rows, index, size) for index in range(len(rows.logits[0])))

    @torch.no_grad()
    def _best(self, rows: ProposalRows, index: int, size: tuple[int, int]) -> Tensor:
        found, found_scores = [], []
        for logits, deltas, anchors in zip(*rows, strict=True):
            scores, order = logits[index, :, 0].sort(descending=True, stable=True)
            order = order[:_CANDIDATES]
            boxes = clip(decode(deltas[index, order], anchors[order], limit_shrinking=True), *size)
            real = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            boxes, scores = boxes[real], scores[: len(order)][real]
            kept = nms(boxes, scores, self.recipe.iou_threshold)
            found.append(boxes[kept])
            found_scores.append(scores[kept])
        order = torch.cat(found_scores).sort(descending=True, stable=True).indices[: self.recipe.count]
        return torch.cat(found)[order]

    def losses(self, rows: ProposalRows, targets: Sequence[Target], size: tuple[int, int]) -> dict[str, Tensor]:
        """The losses on a sample of each image's anchors; `size` is the images' height and width in px."""
        logits, deltas, anchors = torch.cat(rows.logits, dim=1)[..., 0], torch.cat(rows.deltas, dim=1), torch.cat(rows.anchors)
        learned = self._learned(anchors, size)
        objectness, boxes, num_sampled = logits.sum() * 0, deltas.sum() * 0, 0
        for index, target in enumerate(targets):
            assigned = assign(anchors[learned], target.boxes, _RULE).objects
            positive, negative = sample(assigned, self.recipe.batch_size, _POSITIVE_SHARE)
            num_sampled += max(len(positive), 1) + max(len(negative), 1)
            chosen = logits[index, learned[torch.cat((positive, negative))]]
            wanted = torch.zeros_like(chosen)
            wanted[: len(positive)] = 1
            objectness = objectness + functional.binary_cross_entropy_with_logits(chosen, wanted, reduction="sum")
            own = learned[positive]
            moves = encode(anchors[own], target.boxes[assigned[positive]])
            boxes = boxes + functional.smooth_l1_loss(deltas[index, own], moves, reduction="sum", beta=self.recipe.beta)
        found = {"loss_objectness": objectness / num_sampled, "loss_rpn_box_reg": boxes / num_sampled}
        return rescale(found, num_sampled, logits.device)

    def _learned(self, anchors: Tensor, size: tuple[int, int]) -> Tensor:
        """The indices of the anchors that are learned."""
        height, width = size
        within = (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2] < width) & (anchors[:, 3] < height)
        return torch.where(within if self.recipe.within else torch.ones_like(within))[0]


def _anchors(level: Tensor, stride: int, scale: float) -> Tensor:
    height, width = level.shape[-2:]
    roots = [math.sqrt(ratio) for ratio in RATIOS]
    halves = torch.tensor([[stride / root * scale / 2, stride * root * scale / 2] for root in roots], device=level.device)
    y, x = (torch.arange(count, device=level.device, dtype=torch.float32) * stride for count in (height, width))
    corners = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1).reshape(-1, 1, 2)
    return torch.cat((corners - halves, corners + halves), dim=-1).reshape(-1, 4)


def _rows(level: Tensor, width: int) -> Tensor:
    """[B, A * width, H, W] as [B, H * W * A, width], float32."""
    return level.float().permute(0, 2, 3, 1).reshape(len(level), -1, width)
