"""Section data: which images, and how they are fitted to the network."""

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from deploy import plugins
from deploy.contract import Frozen, Preprocessing

MAX_DOUBTFUL = 0.2


class DataConfig(Frozen):
    """`dataset` is a file of stages/datasets; its options are written next to it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    dataset: str = "digits"
    preprocessing: Preprocessing = Preprocessing()
    strict: bool = Field(default=False, description="refuse data with any note: nothing may be repaired, assumed or left out")
    max_doubtful: float = Field(
        default=MAX_DOUBTFUL,
        ge=0,
        le=1,
        description="largest share of a split's images, boxes, masks or files that may be left out or assumed",
    )

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        return plugins.fill("stages.datasets", value, own=tuple(cls.model_fields), key="dataset")

    @property
    def options(self) -> dict[str, Any]:
        """The data set's own options, defaults filled in."""
        return dict(self.model_extra or {})
