"""torchvision's anchors as MMDetection places them: of any size, and at steps of the level's own stride."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

_CPU = torch.device("cpu")


class ExactAnchors(AnchorGenerator):
    """torchvision rounds anchors to whole px and derives strides from the levels' sizes, which differ where those are rounded up.

    Args:
        sizes: sides in px of the square ones, per level.
        ratios: height to width, the same for all levels.
        offset: of the centers from the corners of positions, in strides.
    """

    def __init__(self, strides: Sequence[int], sizes: Sequence[tuple[float, ...]], ratios: tuple[float, ...], offset: float = 0.0) -> None:
        super().__init__(tuple(sizes), (ratios,) * len(strides))  # type: ignore[no-untyped-call]
        self.level_strides = tuple(strides)
        self.offset = offset

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = _CPU,
    ) -> Tensor:
        """See AnchorGenerator.generate_anchors."""
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        half_widths, half_heights = ((factor[:, None] * sides).flatten() / 2 for factor in (1 / roots, roots))
        return torch.stack((-half_widths, -half_heights, half_widths, half_heights), dim=1)

    def grid_anchors(self, grid_sizes: Sequence[Sequence[int]], strides: object) -> list[Tensor]:
        """See AnchorGenerator.grid_anchors; `strides`, which follow from sizes, are not used."""
        cells = self.cell_anchors
        assert cells is not None
        return [self._level(*level) for level in zip(grid_sizes, self.level_strides, cells, strict=True)]

    def _level(self, grid_size: Sequence[int], stride: int, cell: Tensor) -> Tensor:
        y, x = (torch.arange(count, device=cell.device, dtype=cell.dtype) * stride + self.offset * stride for count in grid_size)
        center = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
        return (torch.cat((center, center), dim=-1) + cell).reshape(-1, 4)
