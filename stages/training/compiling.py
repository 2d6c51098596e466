"""torch.compile for a network while it trains: for its layers, not for what assigns objects to them, whose shapes change in every step."""

from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from deploy.errors import ConfigError, first_line
from stages.detectors import Detector


def compile_layers(detector: Detector) -> None:
    """Let the layers be compiled at their first call; weights and their names remain as they are.

    Raises:
        ConfigError: the detector names no layers.
    """
    if not detector.layers():
        raise ConfigError(f"train.compile: detector {detector.name} has no layers that can be compiled; set it to false")
    for module in detector.layers():
        vars(module)["forward"] = _compiled(module.forward)


def restore_layers(detector: Detector) -> None:
    """Undo `compile_layers`."""
    for module in detector.layers():
        vars(module).pop("forward", None)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    run = torch.compile(forward)

    def compiled(*args: Any, **options: Any) -> Any:
        try:
            return run(*args, **options)
        except TorchDynamoException as error:
            raise ConfigError(
                f"train.compile: torch.compile does not work on this machine ({first_line(error)}); set it to false"
            ) from error

    return compiled
