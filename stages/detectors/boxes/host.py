"""What a host needs to know to decode a detector's raw outputs, read off the detector itself."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from deploy.contract import HeadLevel, HostDecoding
from deploy.errors import BuildError

_EXACT_PX = 1e-3


class HostDecodable(ABC):
    """A deployed graph whose head outputs a host may be able to decode."""

    @abstractmethod
    def decoding(self, size: tuple[int, int]) -> HostDecoding | None:
        """How `GraphOutput.head` becomes boxes outside the graph, for images of (height, width) px; None if only the graph can do it."""


def head_levels(anchors: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> tuple[HeadLevel, ...]:
    """The levels, each with anchors [N, 4] and (height, width) in positions.

    Raises:
        BuildError: anchors that are not the same at every position, moved.
    """
    return tuple(_level(own, *size) for own, size in zip(anchors, sizes, strict=True))


def _level(anchors: Tensor, height: int, width: int) -> HeadLevel:
    grid = anchors.double().reshape(height, width, -1, 4)
    first = grid[0, 0]
    across = float(grid[0, -1, 0, 0] - first[0, 0]) / max(width - 1, 1)
    down = float(grid[-1, 0, 0, 1] - first[0, 1]) / max(height - 1, 1)
    x, y = torch.arange(width).double() * across, torch.arange(height).double() * down
    moves = torch.stack(torch.meshgrid(x, y, indexing="xy") * 2, dim=-1)
    if not torch.allclose(moves[:, :, None] + first, grid, rtol=0, atol=_EXACT_PX):
        raise BuildError("export.decode: host: the anchors of this detector are not those of a grid; set it to graph")
    squares = [(x1, y1, x2, y2) for x1, y1, x2, y2 in first.tolist()]
    return HeadLevel(height=height, width=width, step=(across, down), anchors=tuple(squares))
