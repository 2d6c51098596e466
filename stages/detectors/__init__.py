"""The detector contract; every other file in this folder is one detector, and its file name is the name in pipeline.yaml.

A file defines `build(num_classes: int, *, <options>) -> Detector`. Its keyword-only parameters are the options in YAML. Two kinds are
marked in their annotations, see `deploy.plugins.OptionRole`: names of pretrained weights, and strides of the pyramid.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from torch import Tensor, nn

from deploy.contract import MaskFrame
from deploy.errors import ConfigError

Kind = Literal["dense", "two_stage", "set_prediction"]
Reading = Literal["pyramid", "head", "decoded", "regions", "teacher_head", "towers", "decoder_queries", "targets"]
"""What a loss may read: parts of Outputs, "teacher_head" is the teacher's `Outputs.head_on`; and the targets."""


@dataclass(frozen=True)
class TargetDoubt:
    """What is not certain about detections that serve as targets.

    exact: [N] bool, which of the target's boxes are exact enough to be learned; the others teach their class only.
    unsure: [M, 4] boxes, as in Target, of what may be objects or not: nothing is to be learned there.
    """

    exact: Tensor
    unsure: Tensor


@dataclass(frozen=True)
class Target:
    """The objects of one image.

    boxes: [N, 4] float32 (x1, y1, x2, y2) in px of the network input; labels: [N] int64 from 0.
    masks: [N, H, W] bool over the network input, for detectors with masks, otherwise None.
    scores: [N] how sure each object is, if they are detections. doubt: what detectors that heed it do not learn; None if all is certain.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None
    scores: Tensor | None = None
    doubt: TargetDoubt | None = None


@dataclass(frozen=True)
class Decoded:
    """Boxes of all places, or queries, in the order of the head's rows.

    boxes: [B, N, 4] (x1, y1, x2, y2) in px of the network input per level, not clipped; one entry for queries.
    anchors: [N, 4] per level, the box that each is predicted from, for heads on points the square around the point; None for queries.
    """

    boxes: tuple[Tensor, ...]
    anchors: tuple[Tensor, ...] | None


@dataclass(frozen=True)
class HeadShape:
    """What is known of a head before it is run.

    places: rows of the head, or of the proposal network, per position, for each level of the pyramid; () without rows.
    bins: of the distribution of a box's side; 0 without. product: whether a score is class times quality, in place of the root of that.
    convs: of each tower, for a head that gives "towers". channels: of its towers, or of a decoder's queries.
    """

    places: tuple[int, ...] = ()
    bins: int = 0
    convs: int = 0
    channels: int = 0
    product: bool = False


@dataclass(frozen=True)
class Towers:
    """What a head's two towers make of the pyramid after the same number of convolutions, [B, C, H, W] per level, and that number."""

    classes: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    convs: int


@dataclass(frozen=True)
class Regions:
    """What a second stage predicts for given boxes, image by image in their order, N in total.

    class_logits: [N, K], and background: [N]; their softmax together is the probability.
    boxes: [N, K, 4] (x1, y1, x2, y2) in px of the network input, not clipped; [N, 1, 4] if all classes share one.
    masks: logits [N, K, h, w] in the frame of the given boxes; None if not asked for, or without masks.
    """

    class_logits: Tensor
    background: Tensor
    boxes: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class Queries:
    """What a decoder starts from: features [B, Q, C] and boxes [B, Q, 4] (cx, cy, w, h) as fractions of the image."""

    features: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class DecodedQueries:
    """A decoder's answer to queries: class_logits [B, Q, K], boxes [B, Q, 4] (x1, y1, x2, y2) in px of the network input."""

    queries: Queries
    class_logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Outputs:
    """What training and distillation see of a detector. The methods compute what they return when they are called, not before.

    pyramid: one feature map [B, C, H, W] per level, finest first.
    strides: px of the input between a level's positions; rounded up to a power of two if the level's size is rounded.
    head: what is predicted at each place, by name, see below.
    losses: the named task losses, scalars normalized so that they can be averaged over processes; empty without targets.
    proposals: boxes [N, 4] per image for two-stage detectors, otherwise None.
    size: height and width of the images in px.
    network: the detector; None if nobody asks it for more.
    context: entered for each computation that is asked for.

    The head of a dense detector has one entry per level, with rows of N = H * W * A: positions row by row, a position's anchors
    together. "class_logits" are [B, N, K] without background, and their sigmoid is the probability at every place; "box_deltas" are
    [B, N, 4] in the detector's own coding, or "box_distributions" [B, N, 4, bins] over distances; "quality", if any, logits [B, N, 1].
    A two-stage detector's are its proposal network's, "objectness" logits [B, N, 1] in place of those of classes. Set prediction has
    one entry per name: "class_logits" [B, Q, K], "boxes" [B, Q, 4] (cx, cy, w, h) as fractions, "masks" [B, Q, h, w] if any.
    """

    pyramid: tuple[Tensor, ...]
    strides: tuple[int, ...]
    head: Mapping[str, tuple[Tensor, ...]]
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    proposals: tuple[Tensor, ...] | None = None
    size: tuple[int, int] = (0, 0)
    network: "Detector | None" = field(default=None, repr=False)
    context: Callable[[], AbstractContextManager[object]] = nullcontext

    def decoded(self) -> Decoded:
        """The boxes that the head's rows mean."""
        with self.context():
            return self._asked().decoded(self)

    def regions(self, boxes: Sequence[Tensor], *, masks: bool = False) -> Regions:
        """What the second stage predicts for boxes [N, 4] in px per image, with their masks if asked for."""
        with self.context():
            return self._asked().regions(self, boxes, masks=masks)

    def head_on(self, pyramid: Sequence[Tensor]) -> "Outputs":
        """What the rest of the network makes of other features, shaped like its own pyramid; gradient flows through its weights."""
        with self.context():
            return replace(self._asked().head_on(pyramid, self.size), context=self.context)

    def towers(self, convs: int) -> Towers:
        """What the head's towers make of the pyramid after some convolutions; 0: the pyramid itself."""
        with self.context():
            return self._asked().towers(self, convs)

    def head_after(self, towers: Towers) -> "Outputs":
        """What the rest of the head makes of towers' features, shaped like its own; gradient flows through its weights."""
        with self.context():
            return replace(self._asked().head_after(towers, self.size), context=self.context)

    def decode_queries(self, queries: Queries | None = None) -> DecodedQueries:
        """What the decoder makes of queries; None: of the network's own."""
        with self.context():
            return self._asked().decode_queries(self, queries)

    def _asked(self) -> "Detector":
        assert self.network is not None, "outputs without their network"
        return self.network


@dataclass(frozen=True)
class GraphOptions:
    """How the deployed graph decides.

    candidates: number kept before NMS, by score: per level for one-stage heads, per class for SSD and for second stages.
    proposals: number of regions passed to the second stage of a two-stage detector. max_detections: per image, after NMS.
    agnostic: whether a box suppresses overlapping boxes of all classes, not only of its own.
    """

    max_detections: int
    candidates: int
    score_threshold: float
    iou_threshold: float
    proposals: int
    agnostic: bool = False


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


_LAYERS = ("backbone", "head", "rpn_head")


class Detector(nn.Module, ABC):
    """A network with `strides` and `channels` of its pyramid, one entry per level, finest first.

    size_multiple, min_side_px: the image's height and width must be multiples of the one, and at least the other.
    mask_frame: what a mask covers, "box" or "image"; None for detectors without masks.
    kind: how it detects. gives: what of its outputs a loss may read; each reading but the first two is a method below, "towers" two.
    head_shape: what is known of its head before it is run.
    name, num_classes: as in pipeline.yaml and the data; set by whoever builds it.
    heeds_doubt: whether its losses heed Target.doubt.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    size_multiple: int = 32
    min_side_px: int = 1
    mask_frame: MaskFrame | None = None
    kind: Kind = "dense"
    gives: tuple[Reading, ...] = ("pyramid",)
    head_shape: HeadShape = HeadShape()
    name: str = ""
    num_classes: int = 0
    heeds_doubt: bool = False

    @abstractmethod
    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """Run on images [B, 3, H, W]; with targets, the task losses are in the result."""

    def progress(self, share: float) -> None:
        """Learn how much of a training is done, from 0 to 1, before each of its steps: for losses that change on the way."""

    def layers(self) -> tuple[nn.Module, ...]:
        """What torch.compile compiles in a training: modules whose input has the same shapes in every step."""
        found = ((path.split("."), module) for path, module in self.named_modules())
        return tuple(module for path, module in found if [name for name in path if name in _LAYERS] == path[-1:])

    def walk(self, images: Tensor, options: GraphOptions) -> None:
        """Run every layer as often as the deployed graph with these options does, so that its products can be counted."""
        self(images)

    def decoded(self, outputs: Outputs) -> Decoded:
        """See Outputs.decoded."""
        raise self._cannot("decoded")

    def regions(self, outputs: Outputs, boxes: Sequence[Tensor], *, masks: bool) -> Regions:
        """See Outputs.regions."""
        raise self._cannot("regions")

    def head_on(self, pyramid: Sequence[Tensor], size: tuple[int, int]) -> Outputs:
        """See Outputs.head_on; `size` is the images' height and width in px."""
        raise self._cannot("teacher_head")

    def towers(self, outputs: Outputs, convs: int) -> Towers:
        """See Outputs.towers."""
        raise self._cannot("towers")

    def head_after(self, towers: Towers, size: tuple[int, int]) -> Outputs:
        """See Outputs.head_after; `size` is the images' height and width in px."""
        raise self._cannot("towers")

    def decode_queries(self, outputs: Outputs, queries: Queries | None) -> DecodedQueries:
        """See Outputs.decode_queries."""
        raise self._cannot("decoder_queries")

    def _cannot(self, reading: Reading) -> ConfigError:
        return ConfigError(f"detector {self.name} cannot give {reading}, only {', '.join(self.gives)}; list it in the loss's READS")

    @abstractmethod
    def graph(self, options: GraphOptions) -> Graph:
        """The fixed-shape graph that is deployed, sharing this detector's weights; it is exported in eval mode."""
