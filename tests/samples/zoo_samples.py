"""Files like those of MMDetection's model zoo, and what MMDetection 3.3 detects with them.

The fixtures zoo_*.npz hold the names and shapes of all tensors of a small network that MMDetection built, and its detections in `image()`
after its tensors had been given the values of `weight`. It ran on a CPU in fp32; RoIAlign and NMS were torchvision's.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from places import ROOT
from torch import Tensor, nn

FOLDER = ROOT / "tests" / "stages" / "detectors" / "fixtures"
SIZE = (96, 128)
NUM_CLASSES = 5
CLASSES = ("apple", "pear", "plum", "fig", "nut")

_SMALL = {"backbone": "resnet18", "width": 8, "fpn_channels": 32}
_REGIONS = {**_SMALL, "box_head_channels": 32}
KINDS: dict[str, dict[str, Any]] = {
    "atss": {"name": "atss", **_SMALL},
    "gfl": {"name": "gfl", **_SMALL},
    "fsaf": {"name": "fsaf", **_SMALL},
    "retinanet": {"name": "retinanet", "version": "mmdet", **_SMALL},
    "fcos": {"name": "fcos", "version": "mmdet", **_SMALL},
    "fcos_normbbox": {"name": "fcos", "version": "mmdet_normbbox", **_SMALL},
    "faster_rcnn": {"name": "faster_rcnn", "version": "mmdet", **_REGIONS},
    "mask_rcnn": {"name": "mask_rcnn", "version": "mmdet", "mask_head_channels": 16, **_REGIONS},
    "dynamic_rcnn": {"name": "dynamic_rcnn", **_REGIONS},
    "cascade_rcnn": {"name": "cascade_rcnn", **_REGIONS},
    "cascade_rcnn_dcn": {"name": "cascade_rcnn", **_REGIONS, "backbone": "resnet50", "deformable": (3, 4, 5)},
    "reppoints": {"name": "reppoints", **_SMALL},
    "cascade_mask_rcnn": {"name": "cascade_mask_rcnn", "mask_head_channels": 16, **_REGIONS},
    "grid_rcnn": {"name": "grid_rcnn", "point_channels": 8, **_REGIONS},
    "yolox": {"name": "yolox", "size": "s", "width": 0.125},
}
"""What each fixture's network is called here."""

_PATHS = ("reduce_layers", "top_down_blocks", "downsamples", "bottom_up_blocks", "out_convs")
_SILU = ("backbone.st", *_PATHS, "multi_level_cls_convs", "multi_level_reg_convs")
"""YOLOX's layers before a SiLU."""

_GAINS = {
    "multi_level_conv_cls": 20.0,
    "multi_level_conv_reg": 1.5,
    "multi_level_conv_obj": 100.0,
    **dict.fromkeys(_SILU, 1.1),
    "fc_cls": 2.0,
    "fc_reg": 0.15,
    "rpn_reg": 0.15,
    "retina_reg": 0.15,
    "conv_reg": 0.5,
    "atss_reg": 0.3,
    "lateral_convs": 0.5,
    "fpn_convs": 0.5,
    "conv_offset": 0.3,
}
"""Of layers, by a part of their names."""

_RARE = ("retina_cls", "atss_cls", "gfl_cls", "conv_cls", "reppoints_cls_out")
"""Layers whose biases are low, so that scores spread."""


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """Normally distributed float32 numbers that follow from the name; numpy promises this stream for every version."""
    return torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32))


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor by MMDetection's name for it, of such a size that features neither vanish nor grow."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("integral.project"):
        return torch.arange(float(shape[0]))
    given = normal(name, shape)
    if name.endswith("running_var"):
        return 1 + 0.2 * given.abs()
    if name.endswith(("running_mean", "bias")):
        return 0.1 * given - (4 if any(layer in name for layer in _RARE) else 0)
    if given.ndim < 2:
        return (0.0 if name.endswith("moment_transfer") else 0.5 if ".bn2." in name else 1) + 0.1 * given
    gain = next((gain for part, gain in _GAINS.items() if part in name), 1.0)
    return given * float(gain * (2.0 / given[0].numel()) ** 0.5)


def image() -> Tensor:
    """Images [2, 3, H, W] with areas, not only noise."""
    coarse = normal("image", (2, 3, SIZE[0] // 16, SIZE[1] // 16))
    return nn.functional.interpolate(coarse, size=SIZE, mode="bilinear") + 0.3 * normal("noise", (2, 3, *SIZE))


def answers(kind: str) -> dict[str, Any]:
    """A fixture's content."""
    with np.load(FOLDER / f"zoo_{kind}.npz") as file:
        return {key: file[key] for key in file.files}


def state_dict(kind: str) -> dict[str, Tensor]:
    """A network's tensors under MMDetection's names."""
    found = answers(kind)
    shapes = (tuple(int(side) for side in shape.split("x") if side) for shape in found["shapes"])
    return {str(name): weight(str(name), shape) for name, shape in zip(found["names"], shapes, strict=True)}


def write(file: Path, state: Mapping[str, Tensor], *, legacy: bool = False, **rest: object) -> Path:
    """A file as training in MMDetection writes it, with the names of classes."""
    meta = {"mmdet_version": "3.3.0", "dataset_meta": {"classes": CLASSES}}
    torch.save({"meta": meta, "state_dict": dict(state)} | rest, file, _use_new_zipfile_serialization=not legacy)
    return file
