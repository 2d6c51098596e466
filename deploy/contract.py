"""The typed facts that every artifact carries about its input, its output and its measurements."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_PIXELS = 89_478_485  # Pillow's own bound: above it a small file can fill the memory
MOST_PIXELS = 2**29  # at four bytes each, what Pillow can address
FULL_WHITE = 65_535


Mean = Annotated[float, Field(ge=-1000, le=1000)]
Deviation = Annotated[float, Field(ge=1e-4, le=1e4)]


Corner = Annotated[int, Field(ge=0, le=3)]


MaskFrame = Literal["box", "image"]
"""What a mask [h, w] covers: its box, or the whole network input."""


class Frozen(BaseModel):
    """Base of all typed values read from YAML or JSON: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocessing(Frozen):
    """How an image becomes the network's input; the same in training, calibration, measurement and serving.

    The network receives float32 [B, 3, height, width]: (value / 255 - mean) / std, channels in `color` order. `alpha`, `white` and
    `max_pixels` say how a file is decoded: transparency is blended over black or ignored; the 16-bit value `white`, and any above it,
    becomes 255; an image of more than `max_pixels` px is refused. With `reduced_decoding`, a JPEG is decoded at a half, a quarter or an
    eighth of its size, as long as that is no less than the network sees of it.
    """

    height: int = Field(default=320, ge=32, le=4096, multiple_of=4)
    width: int = Field(default=320, ge=32, le=4096, multiple_of=4)
    resize: Literal["letterbox", "stretch", "shortest_edge"] = "letterbox"
    pad_value: int = Field(default=114, ge=0, le=255)
    color: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[Mean, Mean, Mean] = (0.485, 0.456, 0.406)
    std: tuple[Deviation, Deviation, Deviation] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    alpha: Literal["blend", "ignore"] = "blend"
    white: int = Field(default=FULL_WHITE, ge=1, le=FULL_WHITE)
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=MOST_PIXELS)
    reduced_decoding: bool = False


RawOutput = Literal["class_logits", "box_deltas", "box_distributions", "quality"]
"""What a graph without decoding returns: [B, N, classes], [B, N, 4], [B, N, 4, bins], [B, N, 1]."""


class HeadLevel(Frozen):
    """A level's positions, row by row, with the anchors (x1, y1, x2, y2) of the first one in px; `step` is px to the next, (x, y).

    The N rows of the raw outputs are those of all levels in turn, a row per anchor, all anchors of a position together.
    """

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    step: tuple[float, float]
    anchors: tuple[tuple[float, float, float, float], ...] = Field(min_length=1, max_length=64)


class BoxCode(Frozen):
    """How a box is coded relative to its anchor: its numbers, each times its factor in `scale`.

    `sides`: px / anchor side from the anchor's center to x1, y1, x2, y2. `center`: the center's move / anchor side, then the logarithm of
    size / anchor size, which is limited to `least` and `most`, null: not. `order`: which number each of these is.
    """

    kind: Literal["sides", "center"]
    scale: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    order: tuple[Corner, Corner, Corner, Corner] = (0, 1, 2, 3)
    least: float | None = None
    most: float | None = None


class HostDecoding(Frozen):
    """How raw outputs become boxes outside the graph, on the host; the numbers that decide are those of the section export.

    `scores`: how class and quality, p and q, both sigmoids, make a score. `mean`: the root of p * q. `class_first`: candidates are chosen
    by p, then a score is p * q, or p without a quality, and boxes without area drop out. `likeliest`: as that, but a row has only its
    likeliest class, is chosen by p * q, and boxes are clipped to the image only at the end.
    """

    outputs: tuple[RawOutput, ...] = Field(min_length=2)
    levels: tuple[HeadLevel, ...] = Field(min_length=1, max_length=16)
    code: BoxCode
    scores: Literal["mean", "class_first", "likeliest"]
    max_detections: int = Field(ge=1, le=1000)
    candidates: int = Field(ge=1, le=5000)
    score_threshold: float = Field(ge=0, le=1)
    iou_threshold: float = Field(ge=0, le=1)
    agnostic: bool = False

    @property
    def num_rows(self) -> int:
        """Rows of the raw outputs."""
        return sum(level.height * level.width * len(level.anchors) for level in self.levels)


class ModelContract(Frozen):
    """Everything needed to feed a detector and to interpret its output.

    The network's labels are contiguous, 0 to len(classes) - 1; `category_ids[label]` is the data set's own id.
    `mask_frame` is null for detectors without masks, `decoding` if the graph itself decodes boxes and suppresses overlaps.
    """

    preprocessing: Preprocessing
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    mask_frame: MaskFrame | None = None
    decoding: HostDecoding | None = None

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The classes as in a COCO file."""
        return [{"id": number, "name": name} for number, name in zip(self.category_ids, self.classes, strict=True)]


class Heads(Frozen):
    """The tensors that delimit the network inside an ONNX graph; everything outside, mainly box decoding, stays fp32.

    `outputs` are raw head outputs. `inputs` are the tensors, in addition to the images, that enter the network, such as pooled regions.
    """

    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()


class LastFifth(Frozen):
    """How much mAP rose in the last fifth of a training, with its interval, image by image on the same `num_images` images with objects."""

    gain: float
    low: float
    high: float
    num_images: int


class NetworkFacts(Frozen):
    """The trained network inside a graph: its detector's name, its size, and the folder of its checkpoint in the store.

    `macs` counts multiply-accumulates for one image at the contract's size, excluding box decoding and NMS. `last_fifth` is null if the
    gain is unknown.
    """

    detector: str
    parameters: int = Field(ge=0)
    macs: int = Field(ge=0)
    checkpoint: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    last_fifth: LastFifth | None = None


class GraphFacts(Frozen):
    """An exported ONNX graph; `bytes` is its size on disk, `heads` names the tensors that delimit its network."""

    opset: int
    max_detections: int
    dynamic_batch: bool
    sha256: str
    bytes: int
    heads: Heads
    network: NetworkFacts


class Cost(Frozen):
    """Cost of an engine's graph for one image; counted, not measured.

    `macs` are multiply-accumulates of all convolutions and matrix products, NMS included. `operators` counts nodes by type.
    `peak_activation_bytes` is the peak size of all tensors held between nodes, without fusion.
    """

    macs: int
    operators: dict[str, int]
    weight_bytes: int
    peak_activation_bytes: int
    input_bytes: int


class CocoNumbers(Frozen):
    """COCO's twelve metrics as fractions, 0 to 1; null if undefined (no such object), never NaN."""

    map: float | None
    map_50: float | None
    map_75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    mar_1: float | None
    mar_10: float | None
    mar_100: float | None
    mar_small: float | None
    mar_medium: float | None
    mar_large: float | None


class Accuracy(CocoNumbers):
    """Accuracy of boxes on one split; `segmentation` is the same for masks, null if the detector or the split has none."""

    split: str
    num_images: int
    per_class: dict[str, float | None]
    segmentation: CocoNumbers | None = None


class Percentiles(Frozen):
    """Percentiles of a latency, in milliseconds."""

    p50: float
    p90: float
    p95: float
    p99: float


class Latency(Frozen):
    """Latency of one image at a time, in milliseconds; `end_to_end` is the measured total of a pass, excluding decoding of the file.

    `low` and `high` are the 95% interval of each percentile of `end_to_end`; `seconds` is the sum of all passes.
    """

    pre: Percentiles
    infer: Percentiles
    post: Percentiles
    end_to_end: Percentiles
    num_passes: int
    seconds: float
    low: Percentiles | None = None
    high: Percentiles | None = None


class Ratio(Frozen):
    """How many times as long one engine takes as another, from pixels to boxes, with its 95% interval."""

    ratio: float
    low: float
    high: float
