"""Options of detectors that predict a set of boxes; null is the weights' own value, or the given one with random weights."""

from typing import Annotated, Literal

from pydantic import Field

BackboneScale = Annotated[
    Annotated[float, Field(gt=0, le=1)] | None, Field(description="multiplies the channels of an HGNetV2 backbone; null: 1")
]
Width = Annotated[Literal[32, 64, 128, 256] | None, Field(description="channels of the pyramid and of the queries; null: 256")]
Depth = Annotated[
    Annotated[float, Field(ge=0.3, le=2)] | None, Field(description="multiplies the number of blocks in the pyramid; null: 1")
]
Layers = Annotated[Annotated[int, Field(ge=1, le=12)] | None, Field(description="decoder layers; null: 3")]
Queries = Annotated[
    Annotated[int, Field(ge=1, le=1000)] | None,
    Field(description="number of predicted boxes, limited by the number of positions over all levels; null: 300"),
]
Groups = Annotated[
    Annotated[int, Field(ge=1, le=20)] | None, Field(description="groups of queries that are trained at the same time; null: 13")
]
Denoising = Annotated[
    Annotated[int, Field(ge=1, le=1000)] | None,
    Field(
        description="objects that each image adds to training, perturbed a little, and as many perturbed more, at least one of both for "
        "each object; fewer train faster; null: 100"
    ),
]
