"""A tiny data set, teacher, student and schedule, for tests that train."""

from pathlib import Path
from typing import Any

import torch

from stages.artifacts import Dataset
from stages.config import DataConfig, DetectorConfig, DistillConfig, TrainConfig
from stages.detectors import Target
from stages.prepare import prepare

STUDENT: dict[str, Any] = {
    "name": "fcos",
    "backbone": "resnet10",
    "width": 8,
    "norm": "group",
    "fpn_channels": 32,
    "strides": (8, 16),
    "head_convs": 1,
    "range_scale": 0.5,
}
TEACHER: dict[str, Any] = {**STUDENT, "width": 16}
LOSSES: list[dict[str, Any]] = [{"name": "attention", "weight": 0.5}, {"name": "non_local", "weight": 0.5}]
HEADS: list[dict[str, Any]] = [{"name": name} for name in ("localization", "general_instance", "chen", "cross_head")]
AUTO: list[dict[str, Any]] = [{**loss, "weight": "auto"} for loss in LOSSES]


def dataset(out: Path, *, train_images: int = 12, val_images: int = 4, size: int = 64, seed: int = 0) -> Dataset:
    """A few generated digit images of `size` px."""
    options = {
        "seed": seed,
        "image_size": size,
        "train_images": train_images,
        "val_images": val_images,
        "test_images": 4,
        "shifted_images": 4,
    }
    sizes = {"min_size": 20, "max_size": 32, "max_digits": 2}
    config = DataConfig.model_validate({"dataset": "digits", **options, **sizes, "preprocessing": {"height": size, "width": size}})
    out.mkdir(parents=True, exist_ok=True)
    return prepare(out, config)


def detector(options: dict[str, Any] = STUDENT) -> DetectorConfig:
    """The student's configuration, or another's."""
    return DetectorConfig.model_validate(options)


def schedule(**options: Any) -> TrainConfig:
    """Three short epochs."""
    defaults: dict[str, Any] = {"epochs": 3, "batch_size": 4, "warmup_steps": 2, "learning_rate": 1e-3, "ema": 0.9, "workers": 0}
    return TrainConfig.model_validate({**defaults, **options})


def distillation(**options: Any) -> DistillConfig:
    """Both losses, at their full weight from the first step."""
    return DistillConfig.model_validate({"losses": LOSSES, "warmup_steps": 0, **options})


def target() -> Target:
    """Two objects in an image of 64 px."""
    return Target(torch.tensor([[4.0, 8.0, 30.0, 40.0], [24.0, 30.0, 60.0, 58.0]]), torch.tensor([1, 4]))
