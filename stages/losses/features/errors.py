"""How far two feature maps lie apart, as one scalar; all have a finite gradient at no difference."""

from torch import Tensor
from torch.linalg import vector_norm


def mean_square(difference: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean of squares of [B, C, H, W], each position's times its weight [B, 1, H, W]."""
    if weight is None:
        return difference.square().mean()
    return (difference.square().mean(dim=1, keepdim=True) * weight).mean()


def norm(difference: Tensor, weight: Tensor | None = None) -> Tensor:
    """The Euclidean norm over all of it, squares likewise weighted.

    Rows are summed first: torch's sum of millions of squares at once is right to three digits only.
    """
    if weight is not None:
        rows = vector_norm(difference, dim=1, keepdim=True) * weight.sqrt()
    else:
        rows = vector_norm(difference, dim=1 if difference.ndim == 4 and difference.stride(1) == 1 else -1)
    total: Tensor = vector_norm(rows)
    return total
