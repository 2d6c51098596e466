"""A tiny student with batch norms, a residual sum and a pyramid, ready to be trained for int8."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray

from deploy import plugins
from deploy.contract import Heads, ModelContract, Preprocessing
from stages.config import DetectorConfig, ExportConfig, FinetuneConfig, LossConfig
from stages.detectors import Detector, Graph
from stages.exports.to_onnx import write_onnx
from stages.int8.forms import Int8Forms
from stages.training.checkpoint import build_detector

FCOS: dict[str, Any] = {**tiny.STUDENT, "norm": "batch"}
"""With batch norms that fold, residual sums, and a head that all levels share."""

RETINANET: dict[str, Any] = {
    "name": "retinanet",
    "backbone": "resnet10",
    "width": 8,
    "fpn_channels": 32,
    "strides": (8, 16),
    "head_convs": 1,
    "norm": "batch",
}

EXPORT = ExportConfig(candidates=20, max_detections=10)
SIZE = 64
CONTRACT = ModelContract(
    preprocessing=Preprocessing(height=SIZE, width=SIZE), classes=tuple(map(str, range(10))), category_ids=tuple(range(1, 11))
)


def config(runtime: str = "ort", **options: Any) -> FinetuneConfig:
    """What a target of a runtime is trained for, by default over one epoch of SGD-sized steps."""
    recipe = plugins.load("deploy.runtimes", runtime).INTEGERS.for_training
    losses = (LossConfig.model_validate({"name": "pearson"}),)
    own: dict[str, Any] = {"ranges": "min_max", "calibration_images": 4, "calibration_split": "train", "weight": 1.0, "losses": losses}
    own["train"] = tiny.schedule(epochs=1, ema=None, weight_decay=0.0)
    return FinetuneConfig(**{**asdict(recipe), **own, **options})


def student(options: dict[str, Any] = FCOS, seed: int = 0) -> Detector:
    """A student whose batch norms have seen something, so that folding them changes weights."""
    detector = build_detector(DetectorConfig.model_validate(options), 10, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in detector.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.copy_(1 + 0.2 * torch.randn(module.weight.shape, generator=generator))
                module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(0.2 * torch.randn(module.running_mean.shape, generator=generator))
                module.running_var.copy_(1 + torch.rand(module.running_var.shape, generator=generator))
    return detector.eval()


def images(count: int = 4, size: int = SIZE) -> list[NDArray[np.float32]]:
    """Smooth noise, [1, 3, size, size] each."""
    random = np.random.default_rng(0)
    coarse = random.normal(size=(count, 1, 3, size // 8, size // 8)).astype(np.float32)
    return [np.kron(one, np.ones((1, 1, 8, 8), np.float32)) for one in coarse]


_EXPORTED: dict[str, tuple[bytes, Heads]] = {}


def write_once(
    graph: Graph, size: tuple[int, int], file: Path, *, opset: int = 18, dynamic_batch: bool = True, raw: Sequence[str] = ()
) -> Heads:
    """As write_onnx, which is slow: networks with the same weights share one export."""
    weights = b"".join(value.numpy().tobytes() for value in graph.state_dict().values())
    known = hashlib.sha256(weights + repr((size, opset, dynamic_batch, raw, [*graph.state_dict()])).encode()).hexdigest()
    if known not in _EXPORTED:
        heads = write_onnx(graph, size, file, opset=opset, dynamic_batch=dynamic_batch, raw=raw)
        _EXPORTED[known] = file.read_bytes(), heads
    content, heads = _EXPORTED[known]
    file.write_bytes(content)
    return heads


@contextmanager
def exports_once() -> Iterator[None]:
    """Inside, no network is exported twice."""
    with pytest.MonkeyPatch.context() as patched:
        for place in ("stages.int8.forms.write_onnx", "stages.exports.to_onnx.write_onnx"):
            patched.setattr(place, write_once)
        yield


def forms(detector: Detector, scratch: Path, how: FinetuneConfig | None = None) -> Int8Forms:
    """Its graphs, calibrated."""
    scratch.mkdir(parents=True, exist_ok=True)
    made = Int8Forms(detector, config() if how is None else how, EXPORT, CONTRACT, scratch)
    made.calibrate(images())
    return made
