"""One-stage heads cut in two: after some of their towers' convolutions, and the rest."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from stages.detectors import Towers
from stages.detectors.dense.model import TowersHead

Steps = tuple[Sequence[nn.Module], Sequence[nn.Module]]
"""The towers for classes and for boxes: each step is a convolution with its normalization and activation."""


def tower_steps(head: nn.Module) -> Steps | None:
    """The towers of a head that has two of equal depth, shared by all levels; None for other heads."""
    head = _without_cover(head)
    if isinstance(head, TowersHead):
        return list(head.cls_convs), list(head.reg_convs)
    if isinstance(head, FCOSHead | RetinaNetHead):
        return _steps(head.classification_head.conv), _steps(head.regression_head.conv)
    return None


def multiplies(head: nn.Module) -> bool:
    """Whether a score is class times quality, as in MMDetection, in place of the root of that, as in torchvision."""
    return isinstance(_without_cover(head), TowersHead)


def _without_cover(head: nn.Module) -> nn.Module:
    """torchvision's models only take heads of its own types, so one of ours may be inside of such a one."""
    return dict(head.named_children()).get("towers", head)


def _steps(tower: nn.Sequential) -> list[nn.Module]:
    """torchvision writes a step as one module, or as a convolution and what follows it."""
    layers = list(tower)
    starts = [index for index, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    if not starts:
        return layers
    return [nn.Sequential(*layers[start:end]) for start, end in zip(starts, [*starts[1:], len(layers)], strict=True)]


def run(steps: Sequence[nn.Module], features: Tensor) -> Tensor:
    """What the steps make of features."""
    for step in steps:
        features = step(features)
    return features


def rest_of_head(head: nn.Module, towers: Towers) -> dict[str, Tensor]:
    """What the head makes of its towers' features, see DenseDetector; `head` is one that has `tower_steps`."""
    head = _without_cover(head)
    if isinstance(head, TowersHead):
        return head.after(towers.classes, towers.boxes, towers.convs)
    assert isinstance(head, FCOSHead | RetinaNetHead)
    logits = _rest(head.classification_head, towers.convs)(list(towers.classes))
    codes = _rest(head.regression_head, towers.convs)(list(towers.boxes))
    if isinstance(codes, tuple):
        return {"cls_logits": logits, "bbox_regression": codes[0], "bbox_ctrness": codes[1]}
    return {"cls_logits": logits, "bbox_regression": codes}


def _rest(branch: nn.Module, convs: int) -> nn.Module:
    """The branch with the same layers, less the first steps of its tower."""
    tower = branch.conv
    assert isinstance(tower, nn.Sequential)
    rest = copy.copy(branch)
    rest.__dict__["_modules"] = {**dict(branch.named_children()), "conv": nn.Sequential(*_steps(tower)[convs:])}
    return rest
