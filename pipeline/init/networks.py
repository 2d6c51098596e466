"""Pairs of networks to choose from, and what an image costs them."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.init.sizes import InputSize, Levels

_DEPTHS: Mapping[str, tuple[int, int, int, int]] = {
    "resnet10": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}
_EXPANSION = {"resnet50": 4}
TORCHVISION_WIDTH = 64
MOBILENET = "mobilenet_v2"
_MOBILENET_MACS = 24_000
"""Per position of stride 2: 300 million at 224 px."""

COCO_STRIDES = (8, 16, 32, 64, 128)
"""Those of the detector that comes with COCO's weights, whose ranges are not scaled."""


@dataclass(frozen=True)
class Network:
    """An FCOS on a ResNet; `weights` of the detector or `backbone_weights` are those it starts from."""

    backbone: str
    width: int
    fpn_channels: int
    head_convs: int
    learning_rate: float
    weights: str | None = None
    backbone_weights: str | None = None

    def options(self, levels: Levels) -> dict[str, Any]:
        """The detector as in pipeline.yaml."""
        if self.weights is not None:  # the whole detector's weights require the default options
            return {"name": "fcos", "backbone": self.backbone, "weights": self.weights}
        own: dict[str, Any] = {"name": "fcos", "backbone": self.backbone}
        if self.width != TORCHVISION_WIDTH:
            own["width"] = self.width
        if self.backbone_weights is not None:
            own["backbone_weights"] = self.backbone_weights
        shape = {"fpn_channels": self.fpn_channels, "strides": list(levels.strides), "head_convs": self.head_convs}
        return own | shape | {"range_scale": levels.range_scale}


@dataclass(frozen=True)
class NetworkPair:
    """A teacher and the student that learns from it."""

    teacher: Network
    student: Network


ON_CPU = (
    NetworkPair(Network("resnet18", 32, 32, 1, 3e-3), Network("resnet10", 16, 32, 1, 4e-3)),
    NetworkPair(Network("resnet18", 48, 64, 1, 2e-3), Network("resnet18", 16, 32, 1, 4e-3)),
    NetworkPair(Network("resnet34", 48, 64, 2, 1.5e-3), Network("resnet18", 24, 64, 1, 3e-3)),
)
ON_GPU = (
    NetworkPair(Network("resnet18", 32, 64, 1, 2e-3), Network("resnet10", 16, 64, 1, 2e-3)),
    NetworkPair(Network("resnet34", 64, 128, 2, 1e-3), Network("resnet18", 32, 64, 1, 2e-3)),
    NetworkPair(Network("resnet50", 64, 256, 4, 5e-4), Network("resnet18", 64, 128, 2, 1e-3)),
)
"""Smallest first; learning rates are for batches of 8, with AdamW.

None is narrower than 16 channels: torch 2.14 crashes on CPUs in the backward pass of a stem with 8 of them at 256 px.
"""


def macs(network: Network, levels: Levels, size: InputSize, num_classes: int) -> int:
    """Multiply-accumulates of one forward pass."""
    positions = {2**power: -(-size.width // 2**power) * -(-size.height // 2**power) for power in range(1, 8)}
    strides = COCO_STRIDES if network.weights is not None else levels.strides
    total, channels = _backbone(network, max(strides), positions)
    fpn = network.fpn_channels
    head = network.head_convs * 18 * fpn * fpn + 9 * fpn * (num_classes + 5)
    for stride in strides:
        lateral = channels.get(stride, 9 * fpn)  # levels above the backbone's are made by a convolution
        total += positions[stride] * (lateral * fpn + 9 * fpn * fpn + head)
    return total


def _backbone(network: Network, coarsest: int, positions: Mapping[int, int]) -> tuple[int, dict[int, int]]:
    """Its multiply-accumulates up to the coarsest level, and the channels by stride."""
    if network.backbone == MOBILENET:
        return positions[2] * _MOBILENET_MACS, {4: 24, 8: 32, 16: 96, 32: 320}
    expansion = _EXPANSION.get(network.backbone, 1)
    total, incoming, channels = 147 * network.width * positions[2], network.width, {}
    for index, depth in enumerate(_DEPTHS[network.backbone]):
        stride = 4 * 2**index
        if stride > coarsest:
            break
        planes = network.width * 2**index
        total += positions[stride] * sum(_block(incoming if i == 0 else planes * expansion, planes, expansion) for i in range(depth))
        incoming = channels[stride] = planes * expansion
    return total, channels


def _block(given: int, planes: int, expansion: int) -> int:
    """Multiply-accumulates of a residual block per position: two convolutions, or a bottleneck, and the shortcut."""
    out = planes * expansion
    inner = 9 * given * planes + 9 * planes * planes if expansion == 1 else given * planes + 9 * planes * planes + planes * out
    return inner + (given * out if given != out else 0)


def weights_here() -> dict[str, str]:
    """Weights that torchvision has already downloaded: by backbone the name of ImageNet's, and under "fcos" COCO's."""
    if importlib.util.find_spec("torchvision") is None:
        return {}
    import torch
    from torchvision.models import get_model_weights
    from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    known = {name: next(iter(get_model_weights(name))) for name in (MOBILENET, *_DEPTHS) if name != "resnet10"}
    known["fcos"] = FCOS_ResNet50_FPN_Weights.COCO_V1
    return {name: one.name for name, one in known.items() if (folder / one.url.rsplit("/", 1)[-1]).is_file()}


def with_weights(pair: NetworkPair, levels: Levels, weights: Mapping[str, str]) -> NetworkPair:
    """The pair with a teacher that starts from weights which are on this machine, if any fit."""
    teacher = pair.teacher
    if teacher.backbone == "resnet50" and "fcos" in weights and min(levels.strides) == 8:
        return replace(pair, teacher=replace(teacher, weights=weights["fcos"]))
    if teacher.width == TORCHVISION_WIDTH and teacher.backbone in weights:
        return replace(pair, teacher=replace(teacher, backbone_weights=weights[teacher.backbone]))
    if teacher.width < TORCHVISION_WIDTH and MOBILENET in weights:
        return replace(pair, teacher=replace(teacher, backbone=MOBILENET, width=TORCHVISION_WIDTH, backbone_weights=weights[MOBILENET]))
    return pair


def download(pair: NetworkPair) -> str:
    """The command that downloads weights for a teacher that now starts from random ones."""
    name = pair.teacher.backbone if pair.teacher.width == TORCHVISION_WIDTH else MOBILENET
    return f"""python -c "from torchvision.models import get_model; get_model('{name}', weights='IMAGENET1K_V1')\""""
