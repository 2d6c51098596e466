"""The detector contract; every other file of this folder is one detector, its file name the name in pipeline.yaml.

A file defines `build(num_classes: int, *, <options>) -> Detector`. Its keyword-only parameters are the options in YAML.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Target:
    """The objects of one image: boxes [N, 4] float32 (x1, y1, x2, y2) in px of the network input, labels [N] int64 from 0."""

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Outputs:
    """What training and distillation see of a detector.

    pyramid: one feature map [B, C, H, W] a level, `strides` px of the input apart, finest first.
    head: raw head outputs by name, one tensor [B, ...] a level.
    losses: the named task losses, scalars averaged so that processes can be averaged; empty without targets.
    proposals: boxes [N, 4] an image for two-stage detectors, else None.
    """

    pyramid: tuple[Tensor, ...]
    strides: tuple[int, ...]
    head: Mapping[str, tuple[Tensor, ...]]
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    proposals: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class GraphOptions:
    """How the deployed graph decides: `candidates` a level kept before NMS, `max_detections` an image after it."""

    max_detections: int = 100
    candidates: int = 300
    score_threshold: float = 0.05
    iou_threshold: float = 0.6


class Detector(nn.Module, ABC):
    """A network with `strides` and `channels` of its pyramid, one entry a level, finest first."""

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    @abstractmethod
    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """Run on images [B, 3, H, W]; with targets, the task losses are in the result."""

    @abstractmethod
    def graph(self, options: GraphOptions) -> nn.Module:
        """The fixed-shape graph that is deployed, sharing this detector's weights.

        It maps images [B, 3, H, W] to boxes [B, K, 4] (px of the network input), scores [B, K] (descending, 0 where padded),
        labels [B, K] int64, converged [B] bool, then the raw head outputs, in the order of `head_outputs`, after which all
        stays fp32.
        """
