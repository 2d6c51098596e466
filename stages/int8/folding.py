"""Batch norms folded into the convolutions before them, as the quantizer folds them, in a network that keeps its form and its file.

A convolution takes its batch norm's factor; the batch norm keeps only what is added, which stays trainable, and divides by exactly 1.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from stages.training.layers.folding import followed


@torch.no_grad()
def fold(network: nn.Module, run: Callable[[], object]) -> dict[nn.Module, nn.Module]:
    """Fold every batch norm that reads one convolution, which nobody else reads; each such convolution with its batch norm.

    Args:
        run: computes the network once, in eval mode.
    """
    pairs = {convolution: norm for norm, convolution in followed(network, run).items() if norm.weight is not None}
    for convolution, norm in pairs.items():
        _fold(convolution, norm)
    return pairs


def freeze(folded: Mapping[nn.Module, nn.Module]) -> None:
    """Leave only what is added of folded batch norms to be trained; the convolutions' own biases are 0 and stay it."""
    for convolution, norm in folded.items():
        for tensor in (getattr(convolution, "bias", None), norm.weight):
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(False)


def norms(network: nn.Module) -> Iterator[nn.Module]:
    """All batch norms, whose statistics stay as they are."""
    return (module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d))


def _fold(convolution: nn.Module, norm: nn.Module) -> None:
    weight, mean, variance = _tensor(norm, "weight"), _tensor(norm, "running_mean"), _tensor(norm, "running_var")
    own, eps = _tensor(convolution, "weight"), float(getattr(norm, "eps", 0.0))
    factor = weight.double() / (variance.double() + eps).sqrt()
    added = _tensor(norm, "bias").double() - mean.double() * factor
    if isinstance(bias := getattr(convolution, "bias", None), Tensor):
        added += bias.double() * factor
        bias.zero_()
    if isinstance(convolution, nn.ConvTranspose2d):  # [in, out / groups, H, W]
        parts = own.double().reshape(convolution.groups, -1, *own.shape[1:]) * factor.reshape(convolution.groups, 1, -1, 1, 1)
        own.copy_(parts.reshape(own.shape))
    else:
        own.copy_(own.double() * factor.reshape(-1, 1, 1, 1))
    mean.zero_()
    variance.copy_(_one_less(variance, eps))
    weight.fill_(1.0)
    _tensor(norm, "bias").copy_(added)


def _tensor(module: nn.Module, name: str) -> Tensor:
    value = getattr(module, name)
    assert isinstance(value, Tensor), name
    return value


def _one_less(like: Tensor, eps: float) -> Tensor:
    """A variance that is 1 with `eps` added, in this type."""
    value = torch.ones_like(like) - eps
    assert bool((value + eps == 1).all()), f"no variance is 1 less {eps}"
    return value
