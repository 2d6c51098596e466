"""Distances between two feature maps, as one scalar; all have a finite gradient at zero difference."""

from torch import Tensor
from torch.linalg import vector_norm


def mean_square(difference: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean square of [B, C, H, W], weighted per position by [B, 1, H, W]."""
    if weight is None:
        return difference.square().mean()
    return (difference.square().mean(dim=1, keepdim=True) * weight).mean()


def norm(difference: Tensor, weight: Tensor | None = None) -> Tensor:
    """The Euclidean norm over all values; squares are weighted per position as in `mean_square`.

    Rows are summed first: torch's sum of millions of squares in one go is accurate to only three digits.
    """
    if weight is not None:
        rows = vector_norm(difference, dim=1, keepdim=True) * weight.sqrt()
    else:
        rows = vector_norm(difference, dim=1 if difference.ndim == 4 and difference.stride(1) == 1 else -1)
    total: Tensor = vector_norm(rows)
    return total
