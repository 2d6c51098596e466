"""Options of detectors that are built on a backbone of the catalog."""

from typing import Annotated, Literal

from pydantic import Field

from deploy.plugins import OptionRole

Backbone = Annotated[str, Field(description="name of a backbone: one of torchvision's, or `timm:` and the name of a timm model")]
BackboneWidth = Annotated[
    int, Field(ge=8, le=256, multiple_of=8, description="channels after the stem; only the plain ResNets support values other than 64")
]
BackboneWeights = Annotated[
    str | None,
    OptionRole.WEIGHTS,
    Field(description="initial weights of the backbone: a name such as `IMAGENET1K_V1`, or a file; null: random weights"),
]
BackboneNorm = Annotated[
    Literal["batch", "group", "frozen"] | None,
    Field(
        description="normalization of the backbone; null: with `weights`, frozen if torchvision trained them so (FCOS, and version 1 of "
        "the others), otherwise the backbone's own; `frozen` makes sense only with weights"
    ),
]
DeformableStages = Annotated[
    tuple[Literal[3, 4, 5], ...],
    Field(description="stages of a ResNet or ResNeXt with deformable convolutions, ascending; their strides are 8 (3), 16 (4) and 32 (5)"),
]
DeformableVersion = Annotated[
    Literal[1, 2],
    Field(description="version of deformable convolutions: 1 moves the places that a kernel reads, 2 also weighs what it reads there"),
]
Weights = Annotated[
    str | None,
    OptionRole.WEIGHTS,
    Field(description="weights of the whole detector: `COCO_V1` (available for the default options) or a file"),
]
