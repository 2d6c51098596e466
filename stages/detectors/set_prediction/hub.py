"""Models of the transformers library: with fresh weights, from the Hugging Face hub, or from a folder written by save_pretrained."""

import importlib
import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from deploy.errors import ArtifactError, in_one_line
from deploy.progress import note
from stages.detectors.backbones.pretrained import DAMAGED, Unread

_UNREADABLE = (*DAMAGED, TypeError)
"""Raised when a model is missing, cut short or something else; TypeError by a configuration of odd types."""


def library() -> Any:
    """The transformers package, imported only when a detector needs it.

    Raises:
        ValueError: it is not installed.
    """
    for package in ("transformers", "scipy"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f'{package} is not installed: pip install "edgedistill[transformers]"')
    return importlib.import_module("transformers")


def refuse_sizes(weights: str, sizes: Mapping[str, object]) -> None:
    """Sizes beside weights would change nothing, or not fit.

    Raises:
        ValueError: naming those that are given.
    """
    given = [name for name, value in sizes.items() if value is not None]
    if given:
        raise ValueError(f"weights {weights} bring their own sizes; leave out {', '.join(given)}")


def load(model_class: Any, weights: str, num_classes: int, class_layers: Sequence[str]) -> Any:
    """A model with the weights of a hub id or a folder; class layers of another number of classes start anew, each named on stderr.

    Parameters are float32 whatever the file has.

    Args:
        weights: the id or the folder; of Unread ones only the configuration is read, and the weights are fresh.
        class_layers: patterns that the names of the tensors begin with that grow with the number of classes.

    Raises:
        ArtifactError: nothing there, another kind of model, or tensors that do not fit.
    """
    config = _configuration(model_class, weights)
    previous, config.num_labels = config.num_labels, num_classes
    if isinstance(weights, Unread):
        return model_class(config)
    try:
        with _quiet():
            model, report = model_class.from_pretrained(
                weights, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, use_safetensors=True
            )
    except _UNREADABLE as error:
        raise ArtifactError(
            f"weights {weights}: cannot be read ({in_one_line(error)}); connect, or give a folder that save_pretrained wrote"
        ) from error
    anew = sorted({name for name, *_ in report["mismatched_keys"]})
    _check(weights, report, anew, class_layers if previous != num_classes else ())
    if anew:
        note(f"weights {weights}: of {previous} classes instead of {num_classes}, so these start anew: {', '.join(anew)}")
    return model


def untie(model: nn.Module) -> None:
    """Give each layer that shares a parameter with another its own copy, as safetensors files need it."""
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
            seen.add(id(parameter))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own report of what did not fit, which a line of ours says."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _configuration(model_class: Any, weights: str) -> Any:
    """The weights' configuration.

    Raises:
        ArtifactError: there is none, or it is of another kind of model.
    """
    kind = model_class.config_class
    try:
        found = kind.get_config_dict(weights)[0].get("model_type")
        if found == kind.model_type:
            return kind.from_pretrained(weights)
    except _UNREADABLE as error:
        reason = f"no folder here that save_pretrained wrote, and the hub does not give it ({in_one_line(error)})"
        raise ArtifactError(f"weights {weights}: {reason}; connect, or give such a folder") from error
    raise ArtifactError(f"weights {weights}: of a {found or 'nameless'} model, but this detector needs {kind.model_type}")


def _check(weights: str, report: Mapping[str, Any], anew: Sequence[str], class_layers: Sequence[str]) -> None:
    """Refuse whatever else than class layers does not fit.

    Raises:
        ArtifactError: naming the first such tensor.
    """
    other = "so they are of another architecture; give those of the detector that is configured"
    for name in sorted(set(report["missing_keys"]) - set(anew)):
        raise ArtifactError(f"weights {weights} lack tensor {name}, {other}")
    for name in sorted(report["unexpected_keys"]):
        raise ArtifactError(f"weights {weights} have an unknown tensor {name}, {other}")
    for name, given, own in sorted(report["mismatched_keys"]):
        if not any(re.match(pattern, name) for pattern in class_layers):
            raise ArtifactError(f"weights {weights}: tensor {name} is {tuple(given)} instead of {tuple(own)}, {other}")
