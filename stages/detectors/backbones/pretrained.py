"""Pretrained weights: torchvision's by name, or a file; class layers for a different number of classes keep fresh weights."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from deploy.errors import ArtifactError, in_one_line
from deploy.machine.files import NotRegular, check_regular
from deploy.plugins import suggest
from deploy.progress import note
from stages.detectors.zoo import inert
from stages.detectors.zoo.layout import FROZEN, IMAGENET, ZooFile, ZooLayout, translated, zoo_file

SUFFIXES = (".pth", ".pt", ".safetensors")
_OTHER = "so they are for a different architecture; use weights for the configured one"
_ZOO_REMEDY = "set version to mmdet where the detector has it, or use weights with torchvision's names"
DAMAGED = (OSError, EOFError, RuntimeError, ValueError, LookupError, UnpicklingError, SafetensorError)
"""Raised when reading a file of tensors that a full disk or a power failure has truncated, or that contains something else."""


class NoWeights(WeightsEnum):
    """For a network whose weights exist only as files."""


class Unread(str):
    """The name of weights that are not read: a checkpoint's replace them, and they may no longer exist.

    The name still decides the network's form, such as frozen normalization, so None in its place would build a different network.
    """

    __slots__ = ()


def refuse_both(weights: str | None, backbone_weights: str | None) -> None:
    """Refuse weights for the backbone next to weights for the whole detector.

    Raises:
        ValueError: both are given.
    """
    if weights is not None and backbone_weights is not None:
        raise ValueError(f"weights {weights} include the backbone's; set backbone_weights to null")


@dataclass(frozen=True)
class Origin:
    """Weights of a whole detector that a network comes from: torchvision's, MMDetection's, transformers' or a checkpoint folder's.

    classes: their names in the order of the logits; None: nothing names them, or the class layers are not theirs.
    pixels: the keys of `data.preprocessing` that they were trained with; empty if nothing says.
    """

    weights: str
    classes: tuple[str, ...] | None
    pixels: Mapping[str, object]


def origin(network: nn.Module) -> Origin | None:
    """What a network comes from, if anything says it."""
    found = (getattr(module, "origin", None) for module in network.modules())
    return next((one for one in found if isinstance(one, Origin)), None)


def load_torchvision(
    model: nn.Module,
    weights: str,
    choices: type[WeightsEnum],
    class_layers: Sequence[str],
    zoo: ZooLayout | None = None,
    pixels: Mapping[str, object] = IMAGENET,
) -> tuple[str, ...]:
    """Fill a model; every tensor must exist in the model's shape, except class layers for a different number of classes.

    Those keep their values, and a line on stderr names them.

    Args:
        weights: a name of `choices`, such as COCO_V1, or a state dict in a file (.pth, .pt, .safetensors); Unread changes nothing.
        class_layers: prefixes of the names of tensors whose first dimension grows with the number of classes.
        zoo: how a file of MMDetection's is read; None: it is refused.
        pixels: the keys of `data.preprocessing` that those of `choices` were trained with.

    Returns:
        The names of the tensors that kept their values.

    Raises:
        ValueError: no such name.
        ArtifactError: a file that is missing, damaged or for a different architecture, or weights that cannot be downloaded.
    """
    if isinstance(weights, Unread):
        return ()
    what, content = f"weights {weights}", _content("weights", weights, choices)
    own_alone: tuple[str, ...] = ()
    published = zoo_file(weights, content)
    if published is None:
        state = _state_dict(what, content)
    else:
        if zoo is None:
            raise ArtifactError(f"{what}: MMDetection's names of tensors, which this form of the detector does not have; {_ZOO_REMEDY}")
        own_alone = tuple(name for name in model.state_dict() if name.endswith(FROZEN) or name.startswith(zoo.own or (FROZEN,)))
        state = translated(published, zoo, what)
        what = f"{what} (MMDetection's, on {published.backbone})"
    own = model.state_dict()
    fresh = tuple(name for name in state if name.startswith(tuple(class_layers)) and _other_count(state[name], own.get(name)))
    if published is not None and fresh and not any("cls" in name for name in fresh):
        raise ArtifactError(f"{what}: {fresh[0]} is for boxes or masks that all classes share, or do not, {_OTHER}")
    for name in fresh:
        del state[name]
    _fill(model, state, what, (*fresh, *own_alone))
    if fresh:
        note(f"weights {weights}: for a different number of classes, so these are re-initialized: {', '.join(fresh)}")
    if published is not None or weights in choices.__members__:
        _remember(model, weights, published, pixels if zoo is None or published is None else zoo.pixels, known=not fresh)
    return fresh


def file_classes(weights: str) -> tuple[str, ...] | None:
    """The names of the classes in a file of MMDetection's, in the order of its logits; None if it is none, or names none.

    Raises:
        ArtifactError: a file that is missing or damaged.
    """
    published = zoo_file(weights, _content("weights", weights, NoWeights))
    return None if published is None else published.classes


def _remember(model: nn.Module, weights: str, published: ZooFile | None, pixels: Mapping[str, object], *, known: bool) -> None:
    """Attach where it comes from; `known` is whether its class layers do."""
    if published is not None and known and published.classes is None:
        note(f"weights {weights}: the file names no classes; assumed to be the data's, in the same order")
    classes = published.classes if published is not None and known else None
    model.origin = Origin(weights, classes, pixels)  # type: ignore[assignment]


def load_backbone(model: nn.Module, weights: str, choices: type[WeightsEnum], classifier: Sequence[str], added: str | None = None) -> None:
    """Fill a backbone from an image classifier's weights.

    Args:
        weights: a name of `choices`, such as IMAGENET1K_V1, or a state dict in a file (.pth, .pt, .safetensors); Unread changes nothing.
        classifier: prefixes of the names of tensors that are left out.
        added: part of the names of tensors that keep their values if the weights have none of them.

    Raises:
        ValueError: no such name.
        ArtifactError: as load_torchvision.
    """
    if isinstance(weights, Unread):
        return
    state = _state_dict(f"backbone_weights {weights}", _content("backbone_weights", weights, choices))
    for name in [name for name in state if name.startswith(tuple(classifier))]:
        del state[name]
    kept = [name for name in model.state_dict() if name.startswith(tuple(classifier))]
    if added is not None and not any(added in name for name in state):
        kept += [name for name in model.state_dict() if added in name]
    _fill(model, state, f"backbone_weights {weights}", kept)


def _content(option: str, weights: str, choices: type[WeightsEnum]) -> Any:
    """What is under a name or in a file."""
    known = [one.name for one in choices]
    if weights in known:
        return _fetch(option, choices[weights])
    if Path(weights).suffix in SUFFIXES:
        return _load(option, Path(weights))
    choose = f"choose from {', '.join(known)}, or " if known else ""
    raise ValueError(f"no {option} '{weights}'{suggest(weights, known)}; {choose}use a file ({', '.join(SUFFIXES)})")


def _state_dict(what: str, content: Any) -> dict[str, Tensor]:
    """The content itself, with the versions that torch keeps next to the tensors."""
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ArtifactError(f"{what}: contains no state dict (names and tensors); use one that torch.save(model.state_dict(), ...) wrote")
    return content


def _fetch(option: str, choice: WeightsEnum) -> Any:
    try:
        return choice.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ArtifactError(
            f"{option} {choice.name} cannot be downloaded from {choice.url} ({error}); go online, or set it to null"
        ) from error
    except DAMAGED as error:
        place = Path(torch.hub.get_dir()) / "checkpoints" / choice.url.rsplit("/", 1)[-1]
        raise ArtifactError(f"{option} {choice.name}: {place} is damaged ({in_one_line(error)}); delete it and run again") from error


def _load(option: str, file: Path) -> Any:
    try:
        check_regular(file)
        return load_file(str(file)) if file.suffix == ".safetensors" else inert.load(file)
    except (FileNotFoundError, NotRegular) as error:
        raise ArtifactError(f"{option} {file}: {error.strerror}; use a different file") from error
    except inert.CodeInPickle as error:
        raise ArtifactError(
            f"{option} {file}: not a readable state dict: {error}, and nothing was run; use a file of tensors only"
        ) from error
    except DAMAGED as error:
        raise ArtifactError(f"{option} {file}: not a readable state dict ({in_one_line(error)}); use a different file") from error


def _other_count(given: Tensor, own: Tensor | None) -> bool:
    return own is not None and given.shape != own.shape and given.shape[1:] == own.shape[1:]


def _fill(model: nn.Module, state: dict[str, Tensor], what: str, kept: Sequence[str]) -> None:
    """Load everything except `kept`.

    Raises:
        ArtifactError: a tensor is missing, unknown or of a different shape.
    """
    try:
        # torchvision's modules translate older names of their tensors here, so names are compared afterwards.
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ArtifactError(f"{what}: {_mismatch(error)}, {_OTHER}") from error
    missing = [name for name in result.missing_keys if name not in kept]
    if missing or result.unexpected_keys:
        name, side = (missing[0], "lack") if missing else (result.unexpected_keys[0], "have an unknown")
        raise ArtifactError(f"{what} {side} tensor {name}, {_OTHER}")


def _mismatch(error: RuntimeError) -> str:
    """The first of torch's lines about shapes."""
    first = next((line for line in str(error).splitlines() if "size mismatch" in line), str(error))
    return " ".join(first.split()).rstrip(".")
