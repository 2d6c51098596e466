"""RoIAlign with as many samples as a region needs: for training, and for graphs as a product of matrices.

He et al., "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870, as in mmdet: half a position is subtracted (`aligned`), and each
cell averages one sample per position of its width and height, rounded up. A cell's samples are evenly spaced, so their weights have a
closed form, whatever their number: this replaces loops whose length depends on the data. The level of a region is chosen as in
`roi_align`.

In graphs, all positions under a region are gathered once, in lines along its long side, padded to runs of RUN positions. There is room
for RUNS of them; that is enough for every region that is not larger than its level expects and at most 16 times as long as wide.
Departure: of longer ones, every second, third, ... position along the long side is gathered, and interpolation is between those.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stages.detectors.two_stage import trained_roi_align
from stages.detectors.two_stage.roi_align import region_levels, value_of

RUN = 8
"""Positions next to each other along a region's long side that are gathered together."""
RUNS = 144
"""Number of runs that are gathered per region, unless the coarsest level has more, or all levels have fewer."""
_RUNS_TOGETHER = 36
"""Number of runs that are gathered at a time: all of them together would be the largest tensor of the whole detector."""


def pool(levels: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], output_size: int) -> Tensor:
    """The features of regions, differentiable, [all N, C, output_size, output_size] in float32; see `trained_roi_align.pool`."""
    return trained_roi_align.pool([level.float() for level in levels], strides, boxes, output_size, 0, aligned=True)


class _Axis(NamedTuple):
    """Positions along one axis under regions [B, N].

    first: the first one; step: between those that are gathered; number: of those that are gathered; size: number that the level has.
    stride: rows from one position to the next; weights: [B, N, output_size, L], of each gathered position in each cell.
    """

    first: Tensor
    step: Tensor
    number: Tensor
    size: Tensor
    stride: Tensor
    weights: Tensor

    def rows(self, index: Tensor) -> Tensor:
        """How many rows after the level's first one the positions [B, N, T] are of the gathered ones [B, N, T]."""
        place = torch.minimum(self.first[..., None] + index * self.step[..., None], self.size[..., None] - 1)
        return place * self.stride[..., None]


class _Span(NamedTuple):
    """Along one axis, where regions [B, N] begin and end, in positions of a level with `size` of them, `stride` rows apart."""

    start: Tensor
    end: Tensor
    size: Tensor
    stride: Tensor

    def or_else(self, other: "_Span", condition: Tensor) -> "_Span":
        """This one where the condition [B, N] holds, otherwise the other."""
        return _Span(*(torch.where(condition, *pair) for pair in zip(self, other, strict=True)))

    def first(self) -> Tensor:
        """The first position that a region needs."""
        return torch.minimum(torch.floor(self.start).clamp(min=0), self.size - 1)

    def needed(self) -> Tensor:
        """The number of positions that it needs."""
        return torch.minimum(torch.ceil(self.end).clamp(min=0), self.size - 1) - self.first() + 1

    def axis(self, step: Tensor, output_size: int, most: int) -> _Axis:
        """The positions that are gathered, `step` apart, with weights for up to `most`."""
        first, number = self.first(), torch.ceil((self.needed() - 1) / step) + 1
        weights = _weights(self.start - first, self.end - self.start, number, step, output_size, most)
        return _Axis(first, step, number, self.size, self.stride, weights)


def gather_pool(levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, output_size: int) -> Tensor:
    """What `pool` returns, without shapes that depend on the data.

    Args:
        boxes: [B, N, 4] within the image, in px.

    Returns:
        [B * N, C, output_size, output_size].
    """
    batch, channels = levels[0].shape[:2]
    areas = [level.shape[-2] * level.shape[-1] for level in levels]
    which = region_levels(boxes, strides)
    short, long, tall, room = _axes(levels, strides, which, boxes, output_size)
    rows = torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2).reshape(-1, channels)
    start = value_of(which, [sum(areas[:index]) for index in range(len(areas))], which)
    start = start + (torch.arange(batch, device=boxes.device) * sum(areas))[:, None]
    runs = torch.ceil(long.number / RUN)
    within = torch.arange(RUN, device=boxes.device, dtype=boxes.dtype)
    blocks = long.weights.unflatten(3, (-1, RUN)).transpose(2, 3).flatten(3)  # [B, N, runs, output_size * RUN]
    total: Tensor | None = None
    for part in torch.arange(room, device=boxes.device, dtype=boxes.dtype).split(_RUNS_TOGETHER):
        line = torch.floor((part + 0.5) / runs[..., None])
        run = part - line * runs[..., None]
        along = (run[..., None] * RUN + within).flatten(2)
        index = (short.rows(line)[..., None] + long.rows(along).unflatten(2, (-1, RUN))).to(torch.int64) + start[..., None, None]
        taps = torch.index_select(rows, 0, index.flatten()).reshape(-1, RUN, channels)
        chosen = run.to(torch.int64)[..., None].expand(-1, -1, -1, blocks.shape[-1])
        inner = torch.gather(blocks, 2, chosen).reshape(-1, output_size, RUN) @ taps
        line = line.clamp(max=float(short.weights.shape[-1] - 1)).to(torch.int64)[:, :, None].expand(-1, -1, output_size, -1)
        outer = torch.gather(short.weights, 3, line).reshape(-1, output_size, len(part))
        product = outer @ inner.reshape(-1, len(part), output_size * channels)
        total = product if total is None else total + product
    assert total is not None
    total = total.reshape(-1, output_size, output_size, channels)
    total = torch.where(tall.reshape(-1, 1, 1, 1), total.transpose(1, 2), total)
    return total.permute(0, 3, 1, 2)


def _axes(
    levels: Sequence[Tensor], strides: Sequence[int], which: Tensor, boxes: Tensor, output_size: int
) -> tuple[_Axis, _Axis, Tensor, int]:
    """The short and the long axis of regions [B, N, 4], which regions are taller than wide, and the number of runs."""
    shapes = [tuple(level.shape[-2:]) for level in levels]
    runs = [min(shape) * math.ceil(max(shape) / RUN) for shape in shapes]
    room = min(max(RUNS, runs[-1]), max(runs))
    x1, y1, x2, y2 = (boxes * value_of(which, [1 / stride for stride in strides], boxes)[..., None] - 0.5).unbind(dim=-1)
    height, width = (value_of(which, [float(shape[axis]) for shape in shapes], boxes) for axis in (0, 1))
    upright, lying = _Span(y1, y2, height, width), _Span(x1, x2, width, torch.ones_like(width))
    tall = upright.needed() > lying.needed()
    long, short = upright.or_else(lying, tall), lying.or_else(upright, tall)
    step = torch.ones_like(width)
    if max(runs) > room:
        step = torch.ceil((long.needed() - 1) / (torch.floor(room / short.needed()).clamp(min=1) * RUN - 1)).clamp(min=1)
    most_lines, most = max(map(min, shapes)) + 1, RUN * math.ceil(max(map(max, shapes)) / RUN)
    return short.axis(torch.ones_like(step), output_size, most_lines), long.axis(step, output_size, most), tall, room


def _weights(start: Tensor, length: Tensor, count: Tensor, step: Tensor, output_size: int, most: int) -> Tensor:
    """The weights [B, N, output_size, most] of gathered positions in the average of each cell's samples, 0 from `count` on.

    A position's weight is the difference of two sums over samples p: of 1 if p is at least one position below z, of z - p if it is
    less than one below, and of 0 otherwise; z is the position itself and the next one. Samples beyond the ends belong to the ends.

    Args:
        start: [B, N], where regions begin, in positions after the first one; length: [B, N], in positions.
        count: [B, N], the number of gathered positions; step: [B, N], positions from one to the next.
    """
    cell = length / output_size
    samples = torch.ceil(cell)[..., None, None]
    cell, gap = ((one / step)[..., None, None] for one in (cell, cell / torch.ceil(cell).clamp(min=1)))
    gap = torch.where(samples > 0, gap, torch.ones_like(gap))
    begin = (start / step)[..., None, None] + torch.arange(output_size, device=start.device, dtype=start.dtype)[:, None] * cell
    z = torch.arange(most + 1, device=start.device, dtype=start.dtype)
    distance = torch.minimum((z - begin).clamp(min=0), cell + 1)
    below = _sum_below(distance, gap, samples) - _sum_below((distance - 1).clamp(min=0), gap, samples)
    below = torch.where(z >= count[..., None, None], samples, below)
    below = torch.where(z > 0, below, torch.zeros_like(below)) / samples.clamp(min=1)
    return below[..., 1:] - below[..., :-1]


def _sum_below(distance: Tensor, gap: Tensor, samples: Tensor) -> Tensor:
    """The sum of distances from a point to the samples below it, which lie (k + 0.5) gaps from where the distance is measured."""
    number = torch.minimum(torch.floor(distance / gap + 0.5).clamp(min=0), samples)
    return number * distance - gap * number * number / 2
