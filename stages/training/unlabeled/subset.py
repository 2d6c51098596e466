"""A detector that was trained for more classes, reduced to some of them: of its class layers, only their rows are kept.

Only detectors that judge every class by itself (a sigmoid per class) can be reduced: where classes compete in a softmax, what belongs to a
class that is left out would go to those that remain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from deploy import plugins
from deploy.errors import ConfigError
from deploy.plugins import OptionRole
from stages.artifacts import Checkpoint
from stages.config import TeacherConfig
from stages.detectors import Detector
from stages.detectors.backbones.pretrained import SUFFIXES, file_classes, origin
from stages.detectors.set_prediction import hub
from stages.training.checkpoint import build_detector, load_weights

KEY = "distill.unlabelled.classes"
_TRAINING_ONLY = ("denoising",)
"""Parts of the names of layers that only a training reads: they keep fresh weights."""
_MOST_NAMED = 12


def reduced(config: TeacherConfig, wanted: Mapping[str, str], seed: int) -> Detector:
    """The teacher for the classes that `wanted` names, in its order; its origin says for which values of pixels it is.

    Args:
        wanted: the data's classes, each with the teacher's name for it.

    Raises:
        ConfigError: the teacher's classes are not known, it has none of a name, or its classes compete.
        ArtifactError: weights that are not available or belong to a different detector.
    """
    choice = config.detector
    names, places = known_classes(config), refuse_unknown(config, wanted)
    large = build_detector(choice, len(names), seed, pretrained=config.weights is None)
    if config.weights is not None:
        load_weights(large, Path(config.weights))
    small, more = (build_detector(choice, count, seed, pretrained=False) for count in (len(places), len(names) + 1))
    state = {**small.state_dict()}
    grown = more.state_dict()
    for name, tensor in large.state_dict().items():
        per_class = grown[name].shape[0] - tensor.shape[0] if tensor.dim() else 0
        if not per_class:
            state[name] = tensor
        elif not any(part in name for part in _TRAINING_ONLY):
            state[name] = _rows(tensor, per_class, len(names), places, choice.name)
    small.load_state_dict(state)
    if (found := origin(large)) is not None:
        small.origin = replace(found, classes=None)  # type: ignore[assignment]
    return small


def refuse_unknown(config: TeacherConfig, wanted: Mapping[str, str]) -> list[int]:
    """The labels of the classes; raises as `reduced`."""
    names = known_classes(config)
    return [_place(name, names) for name in wanted.values()]


def _rows(tensor: Tensor, per_class: int, num_classes: int, places: Sequence[int], detector: str) -> Tensor:
    """The rows of some classes of a layer with the rows of all classes, anchor by anchor."""
    if tensor.shape[0] != per_class * num_classes:
        raise ConfigError(f"{KEY}: the classes of detector {detector} compete with each other, so none can be left out; choose a {_OTHERS}")
    return tensor.reshape(per_class, num_classes, *tensor.shape[1:])[:, list(places)].flatten(0, 1).contiguous()


_OTHERS = "dense detector, such as fcos or retinanet, or one that predicts sets"


def known_classes(config: TeacherConfig) -> tuple[str, ...]:
    """The names of the classes that the teacher's weights are for, in the order of their labels.

    Raises:
        ConfigError: nothing names them.
        ArtifactError: weights that are not available.
    """
    if config.weights is not None:
        folder = Path(config.weights)
        if folder.is_dir():
            return Checkpoint(folder).facts.contract.classes
        raise ConfigError(f"{KEY}: {folder} does not name its classes; set teacher.weights to a checkpoint folder, which does")
    given = [weights for name, weights in config.detector.options_of(OptionRole.WEIGHTS).items() if name == "weights" and weights]
    if not given:
        raise ConfigError(
            f"{KEY}: the teacher starts from no weights of a detector; set teacher.detector.weights, such as COCO_V1, or teacher.weights"
        )
    found = _coco() if given[0].startswith("COCO_") else _named(given[0])
    if found is None:
        raise ConfigError(f"{KEY}: weights {given[0]} do not name their classes; use a checkpoint folder as teacher.weights")
    return found


def _coco() -> tuple[str, ...]:
    from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

    return tuple(FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"])


def _named(weights: str) -> tuple[str, ...] | None:
    """The classes that a file of MMDetection's, or a model of transformers', names."""
    try:
        return file_classes(weights) if weights.endswith(SUFFIXES) else hub.class_names(weights)
    except ValueError as error:  # transformers is not installed
        raise ConfigError(f"{KEY}: {error}") from error


def _place(name: str, names: Sequence[str]) -> int:
    if name in names and name not in ("__background__", "N/A"):
        return names.index(name)
    choices = [one for one in names if one not in ("__background__", "N/A")]
    more = f", and {len(choices) - _MOST_NAMED} more" if len(choices) > _MOST_NAMED else ""
    raise ConfigError(
        f"{KEY}: the teacher has no class '{name}'{plugins.suggest(name, choices)}; it has {', '.join(choices[:_MOST_NAMED])}{more}"
    )


def taught_classes(given: Mapping[str, str], classes: Sequence[str]) -> dict[str, str]:
    """The teacher's name for each of the data's classes, in their order.

    Raises:
        ConfigError: a class that the data does not have, or one of the data's that is not taught.
    """
    for name in given:
        if name not in classes:
            raise ConfigError(f"{KEY}: the data has no class '{name}'{plugins.suggest(name, classes)}; it has {', '.join(classes)}")
    if missing := [name for name in classes if name not in given]:
        raise ConfigError(f"{KEY}: nothing teaches {', '.join(missing)}; name a class of the teacher for it, or leave it out of the data")
    return {name: given[name] for name in classes}
