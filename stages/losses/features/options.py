"""Options of losses that pair the levels of two feature pyramids."""

from typing import Annotated, Literal

from pydantic import Field

PresetName = Literal["normalised", "code_one_stage", "code_two_stage", "paper_one_stage", "paper_two_stage"]
Strides = Annotated[tuple[int, ...] | None, Field(description="strides of the student's levels that learn; null: all that can")]
Missing = Annotated[
    Literal["skip", "interpolate"],
    Field(
        description="what to do with a level whose stride the teacher lacks: leave it out, or let it learn from the nearest level, resized"
    ),
]
Statistics = Annotated[
    Literal["image", "batch"],
    Field(description="for `normalised`: whether a channel's mean and deviation are computed per image or over the batch"),
]
"""Over the batch as in Cao et al., "PKD", NeurIPS 2022."""
