"""Every detector in the tiny form that its file names, or with its defaults, for tests that build one."""

from typing import Any

import torch
from torch import Tensor, nn

from deploy import plugins
from stages.config import DetectorConfig, ExportConfig
from stages.detectors import Detector, GraphOptions, Target
from stages.measurement.torch_accuracy import graph_options
from stages.training.checkpoint import build_detector


def tiny_options(name: str) -> dict[str, Any]:
    """The constant TINY of a detector's file, or none."""
    found: dict[str, Any] = plugins.constant("stages.detectors", name, "TINY", {})
    return found


TINY = {name: tiny_options(name) for name in plugins.names("stages.detectors")}

FADING = ("yolox",)
"""Whose features vanish on their way through a fresh network, unless its normalization has seen images."""

SIZE = (96, 128)
"""Height and width in px of the images that a tiny detector is tested on."""


def choice(name: str) -> DetectorConfig:
    """The tiny detector's configuration."""
    return DetectorConfig.model_validate({"name": name, **tiny_options(name)})


def tiny(name: str, seed: int = 0, num_classes: int = 5) -> Detector:
    """The tiny detector."""
    return build_detector(choice(name), num_classes, seed)


def decisions(**options: Any) -> GraphOptions:
    """How a graph decides: by these options, and pipeline.yaml's defaults of all others."""
    return graph_options(ExportConfig.model_validate(options))


def images(name: str, batch: int = 2) -> Tensor:
    """Noise, [batch, 3, H, W]."""
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(5))


def targets(detector: Detector, name: str) -> tuple[Target, Target]:
    """An image with two objects, and an empty one."""
    boxes = torch.tensor([[10.0, 12.0, 50.0, 60.0], [60.0, 60.0, 90.0, 94.0]])
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    both, none = (masks, masks[:0]) if detector.mask_frame else (None, None)
    return Target(boxes, torch.tensor([1, 4]), both), Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), none)


def confident(detector: Detector, scale: float = 0.15, seen: Tensor | None = None) -> Detector:
    """The detector with random last layers of such a size that scores spread and many pass a threshold; in eval mode.

    seen: images that it accepts, if it does not accept `images`.
    """
    generator = torch.Generator().manual_seed(0)
    if detector.name in FADING:
        normalized(detector, images("") if seen is None else seen)
    last = last_layers(detector, images("", batch=1) if seen is None else seen)
    for parameter in (parameter for module in detector.modules() if module in last for parameter in module.parameters(recurse=False)):
        parameter.data = torch.randn(parameter.shape, generator=generator) * (scale if parameter.ndim > 1 else 0.0)
    return detector.eval()


def normalized(detector: Detector, seen: Tensor) -> None:
    """Let batch normalization take its statistics from images."""
    layers = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        detector.train()(seen)
    for layer, momentum in zip(layers, usual, strict=True):
        layer.momentum = momentum


def last_layers(detector: Detector, seen: Tensor) -> set[nn.Module]:
    """The layers whose outputs are the graph's raw head outputs, but for functions in between without parameters or with one number."""
    layers = {parameter: module for module in detector.modules() for parameter in module.parameters(recurse=False) if parameter.ndim}
    ahead: list[Any] = [raw.grad_fn for raw in detector.graph(decisions()).eval()(seen).head]
    visited, found = set(), set()
    while ahead:
        step = ahead.pop()
        if step is None or step in visited:
            continue
        visited.add(step)
        before = [function for function, _ in step.next_functions]
        own = {layers[function.variable] for function in before if getattr(function, "variable", None) in layers}
        found |= own
        ahead += [] if own else before
    return found
