"""Models of the transformers library: with fresh weights, from the Hugging Face hub, or from a folder written by save_pretrained."""

import importlib
import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploy.errors import ArtifactError, in_one_line
from deploy.machine.files import check_regular
from deploy.progress import note
from stages.detectors.backbones.pretrained import DAMAGED, Origin, Unread

_UNREADABLE = (*DAMAGED, TypeError)
"""Raised when reading a model that is missing, truncated or something else; TypeError by a configuration with wrong types."""

_UNNAMED = re.compile(r"LABEL_\d+")
"""What the library calls classes without names."""

_LARGEST = 255.0
"""The value of a color, which `data.preprocessing.mean` and `std` count as 1."""


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
    """Refuse sizes together with weights: they would change nothing, or not fit.

    Raises:
        ValueError: sizes are given; the message names them.
    """
    given = [name for name, value in sizes.items() if value is not None]
    if given:
        raise ValueError(f"weights {weights} bring their own sizes; leave out {', '.join(given)}")


def load(model_class: Any, weights: str, num_classes: int, class_layers: Sequence[str]) -> Any:
    """A model with the weights of a hub id or folder; class layers for a different number of classes are re-initialized, see stderr.

    Parameters are float32, whatever the file has. What the id or folder says of its classes and pixels is remembered as their origin.

    Args:
        weights: the id or the folder; if Unread, only the configuration is read, and the weights are fresh.
        class_layers: patterns for how the names of tensors that grow with the number of classes begin.

    Raises:
        ArtifactError: the model does not exist, is of a different kind, or has tensors that do not fit.
    """
    _check_folder(weights)
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
            f"weights {weights}: cannot be read ({in_one_line(error)}); go online, or use a folder that save_pretrained wrote"
        ) from error
    anew = sorted({name for name, *_ in report["mismatched_keys"]})
    _check(weights, report, anew, class_layers if previous != num_classes else ())
    if anew:
        note(f"weights {weights}: for {previous} classes instead of {num_classes}, so these are re-initialized: {', '.join(anew)}")
    model.model.origin = Origin(weights, None if anew else class_names(weights), _pixels(weights))
    return model


def class_names(weights: str) -> tuple[str, ...] | None:
    """The names of the classes of a hub id's or folder's weights, in the order of their logits; None if nothing names them.

    Raises:
        ValueError: transformers is not installed.
        ArtifactError: the model does not exist.
    """
    _check_folder(weights)
    read = library().PreTrainedConfig.get_config_dict
    try:
        labels = read(weights)[0].get("id2label") or {}
        numbered = {int(number): str(name) for number, name in labels.items()}
    except (*_UNREADABLE, AttributeError) as error:
        raise _absent(weights, error) from error
    names = tuple(numbered[number] for number in sorted(numbered))
    in_order = sorted(numbered) == [*range(len(names))]
    return names if names and in_order and not all(map(_UNNAMED.fullmatch, names)) else None


def _pixels(weights: str) -> Mapping[str, object]:
    """The keys of `data.preprocessing` that do what the weights' own image processor does; empty, which a line says, if there is none."""
    try:
        given = importlib.import_module("transformers.models.auto.image_processing_auto").get_image_processor_config(weights)
        shifted = given["do_normalize"]
        unit = _LARGEST * given["rescale_factor"] if given["do_rescale"] else _LARGEST
        mean, std = (given["image_mean"], given["image_std"]) if shifted else ((0.0,) * 3, (1.0,) * 3)
        return {"color": "rgb", **{key: tuple(one / unit for one in value) for key, value in (("mean", mean), ("std", std))}}
    except _UNREADABLE:
        note(f"weights {weights}: nothing says with which mean and std they were trained; assumed to be those of data.preprocessing")
        return {}


def _check_folder(weights: str) -> None:
    """Refuse a folder that has something else than files and folders: the library would wait for it."""
    for path in Path(weights).rglob("*") if Path(weights).is_dir() else ():
        try:
            if not path.is_dir():
                check_regular(path)
        except OSError as error:
            raise ArtifactError(f"weights {weights}: {path}: {error.strerror}") from error


def untie(model: nn.Module) -> None:
    """Give each layer that shares a parameter with another its own copy, as safetensors files require."""
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
            seen.add(id(parameter))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses transformers' own report of what did not fit; a line of ours replaces it."""
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
        ArtifactError: it does not exist, or belongs to a different kind of model.
    """
    kind = model_class.config_class
    try:
        found = kind.get_config_dict(weights)[0].get("model_type")
        if found == kind.model_type:
            return kind.from_pretrained(weights)
    except _UNREADABLE as error:
        raise _absent(weights, error) from error
    raise ArtifactError(f"weights {weights}: for a {found or 'nameless'} model, but this detector needs {kind.model_type}")


def _absent(weights: str, error: Exception) -> ArtifactError:
    reason = f"not a folder that save_pretrained wrote, and the hub does not provide it ({in_one_line(error)})"
    return ArtifactError(f"weights {weights}: {reason}; go online, or use such a folder")


def _check(weights: str, report: Mapping[str, Any], anew: Sequence[str], class_layers: Sequence[str]) -> None:
    """Refuse whatever does not fit, except class layers.

    Raises:
        ArtifactError: a tensor does not fit; the message names the first.
    """
    other = "so they are for a different architecture; use weights for the configured detector"
    for name in sorted(set(report["missing_keys"]) - set(anew)):
        raise ArtifactError(f"weights {weights} lack tensor {name}, {other}")
    for name in sorted(report["unexpected_keys"]):
        raise ArtifactError(f"weights {weights} have an unknown tensor {name}, {other}")
    for name, given, own in sorted(report["mismatched_keys"]):
        if not any(re.match(pattern, name) for pattern in class_layers):
            raise ArtifactError(f"weights {weights}: tensor {name} is {tuple(given)} instead of {tuple(own)}, {other}")
