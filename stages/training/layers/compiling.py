"""torch.compile for a network while it trains: for its layers, not for what assigns objects to them, whose shapes change in every step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from torch._functorch import config

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
        vars(module)["forward"] = lazily_compiled(module.forward, "train.compile")


def restore_layers(detector: Detector) -> None:
    """Undo `compile_layers`."""
    for module in detector.layers():
        vars(module).pop("forward", None)


def lazily_compiled(forward: Callable[..., Any], key: str, **options: Any) -> Callable[..., Any]:
    """What is compiled at its first call; options are torch.compile's.

    Its backward pass may be run again, see `passes_again`: none of the graph's buffers is reused. Where torch.compile does not work, its
    call raises a ConfigError that names the key of pipeline.yaml.
    """
    run = torch.compile(forward, **options)

    def call(*args: Any, **named: Any) -> Any:
        try:
            with config.patch(donated_buffer=False):
                return run(*args, **named)
        except TorchDynamoException as error:
            raise ConfigError(f"{key}: torch.compile does not work on this machine ({first_line(error)}); set it to false") from error

    return call


@contextmanager
def passes_again() -> Iterator[None]:
    """Where a gradient may keep the graph of compiled layers for another backward pass.

    torch refuses it unless the setting says again that no buffer is reused. The setting is a thread's own, so the pass is run in this one.
    """
    with config.patch(donated_buffer=False), torch.autograd.set_multithreading_enabled(False):
        yield
