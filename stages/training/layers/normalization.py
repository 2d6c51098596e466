"""Batch normalization: over the images of all processes, and never on a single value per channel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from deploy.errors import ConfigError
from stages.processes import num_processes

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextmanager
def single_values_refused(network: nn.Module, label: str) -> Iterator[None]:
    """Inside, batch normalization in training mode refuses an input with one value per channel and names the options to change.

    Raises:
        ConfigError: the input has one value per channel; the message starts with `label`.
    """

    def check(module: nn.Module, given: tuple[Any, ...]) -> None:
        if module.training and given[0].numel() == given[0].shape[1]:
            needed = "raise train.batch_size, lower train.accumulate, or choose a different norm"
            raise ConfigError(f"{label}: batch normalization needs two images or more per process and part; {needed}")

    hooks = [module.register_forward_pre_hook(check) for module in network.modules() if isinstance(module, _KINDS)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def norms(network: nn.Module) -> list[nn.Module]:
    """Its batch normalizations that learn, or would in training mode; those of libraries, such as timm's with an activation, too."""
    return [module for module in network.modules() if isinstance(module, _KINDS)]


def synchronize_norms(network: nn.Module) -> None:
    """In training mode, normalize by the images of all processes, as one process does on the entire batch; nothing in a single process.

    torch's own SyncBatchNorm does that on GPUs only, and only for torch's own modules.
    """
    for module in norms(network) if num_processes() > 1 else ():
        vars(module)["forward"] = _Synchronized(module)


def restore_norms(network: nn.Module) -> None:
    """Undo `synchronize_norms`."""
    for module in norms(network):
        if isinstance(vars(module).get("forward"), _Synchronized):
            del vars(module)["forward"]


class _Synchronized:
    """A module's `forward`, in which batch normalization sees all processes; a copy of the module has its own again."""

    def __init__(self, module: nn.Module) -> None:
        self._forward: Callable[..., Any] = type(module).forward.__get__(module)

    def __call__(self, *args: Any, **options: Any) -> Any:
        with _AllProcesses():
            return self._forward(*args, **options)


class _AllProcesses(TorchFunctionMode):
    """Inside, torch's batch_norm takes its statistics from all processes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not batch_norm:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"), args, strict=False))
        return _normalized(**given, **(kwargs or {}))


def _normalized(
    input: Tensor,  # noqa: A002 - torch's names
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As torch's batch_norm, in training over all processes."""
    if not training:
        return batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    values = input.float()
    count, mean, squares = _moments(values.detach())
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((squares / (count - 1).clamp(min=1)).to(running_var.dtype), momentum)
    shape = [1, -1, *[1] * (input.ndim - 2)]
    normal: Tensor = _Normalize.apply(values, mean, (squares / count + eps).rsqrt(), count)
    if weight is not None:
        normal = normal * weight.view(shape)
    if bias is not None:
        normal = normal + bias.view(shape)
    return normal.to(input.dtype)


def _moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many values a channel has in all processes, their mean [C], and the sum of their squared distances from it [C].

    Chan et al., "Algorithms for computing the sample variance", The American Statistician, 1983: nothing large is subtracted.
    """
    over = [0, *range(2, values.ndim)]
    number = values.numel() // values.shape[1]
    own = torch.zeros(2 * values.shape[1] + 1, device=values.device)
    own[-1] = number
    if number:
        means = values.mean(over)
        own[:-1] = torch.cat((means, (values - means.view(1, -1, *[1] * (values.ndim - 2))).square().sum(over)))
    found = [torch.empty_like(own) for _ in range(num_processes())]
    dist.all_gather(found, own)
    means, squares = torch.stack(found)[:, :-1].unflatten(1, (2, -1)).unbind(1)
    counts = torch.stack(found)[:, -1:]
    count = counts.sum().clamp(min=1)
    mean = (means * counts).sum(0) / count
    return count, mean, (squares + counts * (means - mean).square()).sum(0)


class _Normalize(torch.autograd.Function):
    """(values - mean) / deviation, whose gradient reaches the values of all processes through mean and deviation."""

    @staticmethod
    def forward(context: Any, values: Tensor, mean: Tensor, scale: Tensor, count: Tensor) -> Tensor:
        """Values [B, C, ...] with mean and scale [C]."""
        shape = [1, -1, *[1] * (values.ndim - 2)]
        normal = (values - mean.view(shape)) * scale.view(shape)
        context.save_for_backward(normal, scale, count)
        return normal

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """The sums over all processes take the place of one process's."""
        normal, scale, count = context.saved_tensors
        (gradient,) = gradients
        over, shape = [0, *range(2, normal.ndim)], [1, -1, *[1] * (normal.ndim - 2)]
        sums = torch.stack((gradient.sum(over), (gradient * normal).sum(over)))
        dist.all_reduce(sums)
        mean, slope = (sums / count).unbind(0)
        return (gradient - mean.view(shape) - normal * slope.view(shape)) * scale.view(shape), None, None, None
