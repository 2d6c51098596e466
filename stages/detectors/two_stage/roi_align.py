"""RoIAlign over the levels of a pyramid as plain gathers, for graphs without data-dependent shapes and without plugin operators.

He et al., "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870; the level of a region by equation 1 of Lin et al., "Feature
Pyramid Networks for Object Detection", CVPR 2017, https://arxiv.org/abs/1612.03144. The semantics are torchvision's
MultiScaleRoIAlign's (`aligned` false, two samples per side of each cell): regions are at least one position wide and high, samples
more than one position outside a level count as 0. Departure: a region between two levels' strides uses the finer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLES = 2
_CANONICAL_SIZE_PX = 224.0
_CANONICAL_STRIDE = 16
_SLACK = 2.0**-1e-6
"""The small amount that torchvision adds to a region's level, so that sizes at the limit belong to the coarser one."""


def region_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """The level from which a region's features are taken.

    Args:
        boxes: [..., 4] in px.
        strides: one per level, ascending.

    Returns:
        [...] int64, an index into the strides.
    """
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    area = (x2 - x1) * (y2 - y1)
    level = torch.zeros_like(area, dtype=torch.int64)
    for stride in strides[1:]:
        size = _CANONICAL_SIZE_PX * stride / _CANONICAL_STRIDE * _SLACK
        level = level + (area >= size * size).to(torch.int64)
    return level


def roi_align(levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, output_size: int) -> Tensor:
    """The features of regions.

    Args:
        levels: one [B, C, H, W] per level, finest first.
        strides: px of the image between a level's positions, one per level, ascending.
        boxes: [B, N, 4] as x1, y1, x2, y2 in px of the image.

    Returns:
        [B * N, C, output_size, output_size].
    """
    batch, channels = levels[0].shape[:2]
    level = region_levels(boxes, strides)
    heights, widths = ([one.shape[axis] for one in levels] for axis in (-2, -1))
    first = [sum(h * w for h, w in zip(heights[:i], widths[:i], strict=True)) for i in range(len(levels))]
    num_rows = sum(h * w for h, w in zip(heights, widths, strict=True))
    rows = torch.cat([one.flatten(2) for one in levels], dim=2).transpose(1, 2).reshape(-1, channels)
    x1, y1, x2, y2 = (boxes * value_of(level, [1 / stride for stride in strides], boxes)[..., None]).unbind(dim=-1)
    columns, column_weights = _taps(x1, x2, value_of(level, [float(width) for width in widths], boxes), output_size)
    lines, line_weights = _taps(y1, y2, value_of(level, [float(height) for height in heights], boxes), output_size)
    start = value_of(level, first, level) + (torch.arange(batch, device=boxes.device) * num_rows)[:, None]
    lines = start[..., None, None] + lines * value_of(level, widths, level)[..., None, None]
    # One sample's lines at a time: all of them together would be the largest tensor of the whole detector.
    total: Tensor | None = None
    for line, line_weight in zip(lines.split(2, dim=-1), line_weights.split(2, dim=-1), strict=True):
        # [B, N, output lines, output columns, taps of a line, taps of a column]
        index = line[:, :, :, None, :, None] + columns[:, :, None, :, None, :]
        weight = line_weight[:, :, :, None, :, None] * column_weights[:, :, None, :, None, :]
        taps = torch.index_select(rows, 0, index.flatten()).reshape(-1, 4 * SAMPLES, channels)
        part = weight.reshape(-1, 1, 4 * SAMPLES) @ taps
        total = part if total is None else total + part
    assert total is not None
    return total.reshape(-1, output_size, output_size, channels).permute(0, 3, 1, 2)


def value_of(level: Tensor, values: Sequence[float], like: Tensor) -> Tensor:
    """Each region's entry in a table with one value per level."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[level]


def _taps(start: Tensor, end: Tensor, size: Tensor, output_size: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the positions that each cell averages and their weights, [B, N, output_size, 2 * SAMPLES].

    The positions before and after its first sample come first, then those of the next.

    Args:
        start, end: [B, N] in positions of the region's level.
        size: [B, N], the number of positions of the level.
    """
    cell = (end - start).clamp(min=1.0)[..., None, None] / output_size
    index = torch.arange(output_size, device=start.device, dtype=start.dtype)[:, None]
    within = torch.arange(SAMPLES, device=start.device, dtype=start.dtype) + 0.5
    position = start[..., None, None] + index * cell + within * cell / SAMPLES
    size = size[..., None, None]
    inside = ((position >= -1.0) & (position <= size)).to(start.dtype) / SAMPLES
    position = torch.minimum(position.clamp(min=0.0), size - 1)
    before = torch.floor(position)
    after = torch.minimum(before + 1, size - 1)
    share = position - before
    taps = torch.stack((before, after), dim=-1).to(torch.int64)
    return taps.flatten(-2), torch.stack(((1 - share) * inside, share * inside), dim=-1).flatten(-2)
