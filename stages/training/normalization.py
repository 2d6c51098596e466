"""Batch normalization, which cannot train on a single value per channel."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from deploy.errors import ConfigError


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

    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    hooks = [module.register_forward_pre_hook(check) for module in network.modules() if isinstance(module, kinds)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
