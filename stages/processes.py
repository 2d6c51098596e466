"""Means and values of the processes of a torchrun; in a single process, values stay as they are."""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.nn.functional import all_reduce

T = TypeVar("T")


def num_processes() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """The index of this process among them."""
    return 0 if num_processes() == 1 else dist.get_rank()


def is_main_process() -> bool:
    """Whether this process is the one that judges and writes."""
    return process_index() == 0


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over processes, without gradient."""
    if num_processes() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / num_processes()


def gathered(value: T) -> list[T]:
    """Every process's value, in their order, in all of them."""
    found: list[Any] = [value] * num_processes()
    if len(found) > 1:
        dist.all_gather_object(found, value)
    return found


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Give the tensors the first process's values in all of them."""
    for tensor in tensors if num_processes() > 1 else ():
        sent = tensor.cuda() if dist.get_backend() == "nccl" else tensor.contiguous()
        dist.broadcast(sent, 0)
        tensor.copy_(sent)


def shared_count(value: Tensor) -> Tensor:
    """The mean of counts over processes, but at least 1 in all: what a process's sum over as many things is divided by.

    Averaged over processes, as gradients are, the quotients then equal one process's on the whole batch.
    """
    return mean_over_processes(value.float()).clamp(min=1 / num_processes())


def mean_with_gradient(value: Tensor) -> Tensor:
    """The mean of a tensor over processes; every process's loss reaches every process's value."""
    if num_processes() == 1:
        return value
    total: Tensor = all_reduce(value)
    return total / num_processes()


def rescale(losses: dict[str, Tensor], num_positives: int, device: torch.device) -> dict[str, Tensor]:
    """Turn losses divided by this process's positives into ones divided by the mean over processes.

    Averaged over processes, as gradients are, they then equal one process's losses on the whole batch.
    """
    if num_processes() == 1:
        return losses
    mean = shared_count(torch.tensor(num_positives, device=device))
    return {name: loss * (max(1, num_positives) / mean) for name, loss in losses.items()}
