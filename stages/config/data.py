"""Section data: which images, and how they are fitted to the network."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from deploy import plugins
from deploy.contract import Frozen, Preprocessing

SPLIT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""A split's name is also the name of a file."""
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
    splits: dict[Annotated[str, Field(pattern=SPLIT_NAME)], str] = Field(
        default={}, description="splits by our name, each with its name in the data: `{val: test}` uses the data's test as val"
    )
    val_share: float | None = Field(
        default=None, gt=0, lt=1, description="share of train's images to hold out as val, for data without a val split"
    )
    split_seed: int = Field(default=0, ge=0, lt=2**32, description="which images `val_share` holds out")

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        return plugins.fill("stages.datasets", value, own=tuple(cls.model_fields), key="dataset")

    @property
    def options(self) -> dict[str, Any]:
        """The data set's own options, defaults filled in."""
        return dict(self.model_extra or {})
