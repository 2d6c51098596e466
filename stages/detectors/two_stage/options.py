"""Options of detectors that propose regions first and classify them in a second stage."""

from typing import Annotated, Literal

from pydantic import Field

from deploy.plugins import OptionRole

HeadVersion = Annotated[
    Literal[1, 2, "mmdet"],
    Field(
        description="1 and 2 are torchvision's: 2 has two convolutions before the proposals, four before the boxes, and batch "
        "normalization in the pyramid and the heads; `mmdet` is MMDetection's form of 1, which its weights need: anchors are not rounded, "
        "regions are pooled with as many samples as they need"
    ),
]
FpnChannels = Annotated[int, Field(ge=16, le=1024, multiple_of=8, description="channels of each pyramid level")]
Strides = Annotated[
    Annotated[tuple[Literal[4, 8, 16, 32, 64], ...], Field(min_length=1)] | None,
    OptionRole.STRIDES,
    Field(
        description="stride of each level in px of the input, ascending, without gaps; null means 4 to 64, and for `mobilenet_v3_large` "
        "torchvision's 32, 32, 64 with all anchor sizes at each level"
    ),
]
AllStrides = Annotated[
    tuple[Literal[4, 8, 16, 32, 64], ...],
    OptionRole.STRIDES,
    Field(
        min_length=1,
        description="stride of each level in px of the input, ascending, without gaps; regions are pooled from those up to 32",
    ),
]
BoxHeadChannels = Annotated[int, Field(ge=16, le=4096, description="channels of the second stage's hidden layers")]
AnchorScale = Annotated[
    float, Field(gt=0, le=32, description="side of a level's anchors, in strides; should be about the size of the objects at that level")
]
BoxBatchSize = Annotated[
    int,
    Field(
        ge=4,
        le=4096,
        description="maximum number of regions per image that train the second stage; up to a quarter of them are objects",
    ),
]
RpnCandidates = Annotated[
    int,
    Field(
        ge=1,
        le=3000,
        description="number of regions per level that the deployed graph considers before it keeps `export.proposals` over all levels",
    ),
]
RpnScoreThreshold = Annotated[
    float, Field(ge=0, lt=1, description="regions with a lower score are dropped; torchvision's MobileNets use 0.05")
]

SMALL = {
    "backbone": "resnet10",
    "width": 8,
    "fpn_channels": 32,
    "strides": (8, 16, 32),
    "box_head_channels": 64,
    "anchor_scale": 3.0,
    "rpn_candidates": 200,
}
"""A small detector, for tests."""
