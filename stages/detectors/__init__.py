"""The detector contract; every other file in this folder is one detector, and its file name is the name in pipeline.yaml.

A file defines `build(num_classes: int, *, <options>) -> Detector`. Its keyword-only parameters are the options in YAML. Two kinds are
marked in their annotations, see `deploy.plugins.OptionRole`: names of pretrained weights, and strides of the pyramid.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from deploy.contract import MaskFrame


@dataclass(frozen=True)
class Target:
    """The objects of one image.

    boxes: [N, 4] float32 (x1, y1, x2, y2) in px of the network input; labels: [N] int64 from 0.
    masks: [N, H, W] bool over the network input, for detectors with masks, otherwise None.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class Outputs:
    """What training and distillation see of a detector.

    pyramid: one feature map [B, C, H, W] per level, finest first.
    strides: px of the input between a level's positions; rounded up to a power of two if the level's size is rounded.
    head: raw head outputs by name, one tensor [B, ...] per level for dense heads, a single one for heads on queries or regions.
    losses: the named task losses, scalars normalized so that they can be averaged over processes; empty without targets.
    proposals: boxes [N, 4] per image for two-stage detectors, otherwise None.
    """

    pyramid: tuple[Tensor, ...]
    strides: tuple[int, ...]
    head: Mapping[str, tuple[Tensor, ...]]
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    proposals: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class GraphOptions:
    """How the deployed graph decides.

    candidates: number kept before NMS, by score: per level for one-stage heads, per class for SSD and for second stages.
    proposals: number of regions passed to the second stage of a two-stage detector.
    max_detections: maximum number per image, after NMS.
    """

    max_detections: int
    candidates: int
    score_threshold: float
    iou_threshold: float
    proposals: int


class GraphOutput(NamedTuple):
    """What a deployed graph returns; the shapes depend only on the batch size.

    boxes: [B, K, 4] (x1, y1, x2, y2) in px of the network input; scores: [B, K], descending, 0 where padded; labels: [B, K] int64.
    converged: [B] bool, whether every NMS has converged; where it is False, the answer is invalid.
    head: the raw head outputs, at least one; everything after them stays fp32.
    masks: [B, K, h, w] probabilities, in the detector's mask frame; None for detectors without masks.
    pooled: tensors at which the network resumes after fp32 work inside the graph, such as the features of regions.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    converged: Tensor
    head: tuple[Tensor, ...]
    masks: Tensor | None = None
    pooled: tuple[Tensor, ...] = ()


class Graph(nn.Module, ABC):
    """A detector's deployed form."""

    @abstractmethod
    def forward(self, images: Tensor) -> GraphOutput:
        """Detect in images [B, 3, H, W]."""


class Detector(nn.Module, ABC):
    """A network with `strides` and `channels` of its pyramid, one entry per level, finest first.

    size_multiple: the image's height and width must be multiples of this.
    min_side_px: the image's height and width must be at least this.
    mask_frame: what a mask covers, "box" or "image"; None for detectors without masks.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    size_multiple: int = 32
    min_side_px: int = 1
    mask_frame: MaskFrame | None = None

    @abstractmethod
    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """Run on images [B, 3, H, W]; with targets, the task losses are in the result."""

    def walk(self, images: Tensor, options: GraphOptions) -> None:
        """Run every layer as often as the deployed graph with these options does, so that its products can be counted."""
        self(images)

    @abstractmethod
    def graph(self, options: GraphOptions) -> Graph:
        """The fixed-shape graph that is deployed, sharing this detector's weights; it is exported in eval mode."""
