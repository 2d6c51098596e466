"""RoIAlign for networks that train on a CPU, as products of matrices; it differs from torchvision's by rounding only.

torchvision's backward pass on a CPU adds number by number. But a region's samples are a grid, so that its features are the level's times
one matrix for its lines and one for its columns, and the gradient is their transposes'. On large levels, most of which a region does not
touch, and without gradient, torchvision's is used.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision import ops

from stages.detectors.two_stage.roi_align import region_levels

MOST_POSITIONS = 2048
"""Of a level; with more, the products take longer."""


class TrainedRoIAlign(ops.MultiScaleRoIAlign):
    """torchvision's MultiScaleRoIAlign with two samples per side of each cell; each level's stride is twice the one before."""

    def __init__(self, names: Sequence[str], strides: Sequence[int], output_size: int) -> None:
        super().__init__(list(names), output_size, 2)
        self._strides = tuple(strides)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """See MultiScaleRoIAlign."""
        levels = [x[name] for name in self.featmap_names]
        if not any(map(_pays_off, levels)):
            found: Tensor = super().forward(x, boxes, image_shapes)
            return found
        return pool(levels, self._strides, boxes, int(self.output_size[0]), int(self.sampling_ratio), aligned=False)


def pool(
    levels: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], output_size: int, samples: int, *, aligned: bool
) -> Tensor:
    """The features of regions, each from the level of its size.

    Args:
        levels: one [B, C, H, W] per level, finest first.
        strides: px of the image between a level's positions, one per level, ascending.
        boxes: [N, 4] per image, in px.
        samples, aligned: see `roi_align`.

    Returns:
        [all N, C, output_size, output_size].
    """
    numbers = [box.new_full((len(box), 1), index) for index, box in enumerate(boxes)]
    rows = torch.cat((torch.cat(numbers), torch.cat(list(boxes))), dim=1)
    which = region_levels(rows[:, 1:], strides)
    pooled = levels[0].new_zeros(len(rows), levels[0].shape[1], output_size, output_size)
    for index, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        own = torch.where(which == index)[0]
        pooled[own] = roi_align(level, rows[own], output_size, 1 / stride, samples, aligned=aligned)
    return pooled


def roi_align(level: Tensor, rows: Tensor, output_size: int, scale: float, samples: int, *, aligned: bool) -> Tensor:
    """The features [N, C, output_size, output_size] of regions of a level [B, C, H, W].

    Args:
        rows: [N, 5]: the index of the image, and the box in px.
        scale: positions of the level per px.
        samples: per side of a cell; 0: one per position, rounded up.
        aligned: whether half a position is subtracted; if not, regions are at least one position wide and high.
    """
    if not _pays_off(level):
        return ops.roi_align(level, rows, output_size, scale, samples, aligned)
    x1, y1, x2, y2 = (rows[:, 1:] * scale - (0.5 if aligned else 0.0)).unbind(dim=1)
    least = 0.0 if aligned else 1.0
    down, across = (
        _weights(a, b, size, output_size, samples, least) for a, b, size in zip((y1, x1), (y2, x2), level.shape[2:], strict=True)
    )
    found: Tensor = _Products.apply(level, rows[:, 0], down, across)
    return found


def _pays_off(level: Tensor) -> bool:
    usual = level.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    learns = level.requires_grad and torch.is_grad_enabled()
    return usual and learns and level.device.type == "cpu" and level.shape[-2] * level.shape[-1] <= MOST_POSITIONS


def _weights(start: Tensor, end: Tensor, size: int, output_size: int, samples: int, least: float) -> Tensor:
    """Along one axis, how much each position counts in each cell, [N, output_size, size]; regions [N] in positions of the level."""
    extent = (end - start).clamp(min=least)
    counts = torch.full_like(extent, samples) if samples else torch.ceil(extent / output_size)
    most = int(counts.amax()) if len(counts) else 0
    cells, sample = (torch.arange(number, dtype=start.dtype) for number in (output_size, most))
    within = (sample + 0.5) / counts.clamp(min=1.0)[:, None]
    place = start[:, None, None] + (cells[:, None] + within[:, None, :]) * (extent / output_size)[:, None, None]
    counted = (place >= -1.0) & (place <= size) & (sample < counts[:, None])[:, None, :]
    near = (1 - (place.clamp(0.0, size - 1.0)[..., None] - torch.arange(size, dtype=start.dtype)).abs()).clamp(min=0.0)
    return (near * counted[..., None]).sum(dim=2) / counts.clamp(min=1.0)[:, None, None]


class _Products(torch.autograd.Function):
    """Regions of images [N] from a level: lines by `down` [N, S, H], columns by `across` [N, S, W]; they do not learn."""

    @staticmethod
    def forward(context: Any, level: Tensor, images: Tensor, down: Tensor, across: Tensor) -> Tensor:
        """Image by image: all regions of one share a product."""
        context.save_for_backward(images, down, across)
        context.shape = level.shape
        _, channels, height, width = level.shape
        pooled = level.new_empty(len(images), down.shape[1], across.shape[1], channels)
        for index, image in enumerate(level):
            own = torch.where(images == index)[0]
            lines = down[own].flatten(0, 1) @ image.permute(1, 2, 0).reshape(height, width * channels)
            pooled[own] = across[own][:, None] @ lines.reshape(len(own), down.shape[1], width, channels)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """The transposed products."""
        images, down, across = context.saved_tensors
        batch, channels, height, width = context.shape
        given = gradients[0].permute(0, 2, 3, 1)
        found = given.new_empty(batch, height, width, channels)
        for index in range(batch):
            own = torch.where(images == index)[0]
            lines = across[own].transpose(1, 2)[:, None] @ given[own]
            found[index] = (down[own].flatten(0, 1).T @ lines.reshape(-1, width * channels)).reshape(height, width, channels)
        return found.permute(0, 3, 1, 2), None, None, None
