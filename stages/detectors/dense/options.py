"""Options of one-stage detectors with a feature pyramid."""

from typing import Annotated, Literal

from pydantic import Field

from deploy.plugins import OptionRole

FpnChannels = Annotated[int, Field(ge=32, le=1024, multiple_of=32, description="channels of each pyramid level")]
Strides = Annotated[
    tuple[Literal[4, 8, 16, 32, 64, 128], ...],
    OptionRole.STRIDES,
    Field(min_length=1, description="stride of each level in px of the input, ascending; 64 requires 32, and 128 requires both"),
]
Extra = Annotated[
    Literal["pool", "p6p7", "p6p7_c5"],
    Field(
        description="how strides 64 and 128 are made: max pooling (64 only), convolutions on the pyramid's stride 32, or on the backbone's"
    ),
]
HeadConvs = Annotated[int, Field(ge=1, le=8, description="number of convolutions in each head")]
FileWeights = Annotated[str | None, OptionRole.WEIGHTS, Field(description="weights of the whole detector: a file; null: random weights")]
AnchorScale = Annotated[float, Field(ge=1, le=16, description="side of a level's square anchors, in strides")]
Nearest = Annotated[
    int, Field(ge=1, le=25, description="number of anchors of each level, the nearest to an object's center, that may be assigned to it")
]
