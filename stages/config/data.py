"""Section data: which images, and how they are fitted to the network."""

import json
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

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

    unlabelled: str | tuple[str, ...] = Field(
        default=(), description="folder, or folders, of images without labels, for `distill.unlabelled` and `teacher.unlabelled`"
    )

    @field_validator("unlabelled", mode="before")
    @classmethod
    def _text(cls, folders: Any) -> Any:
        if not isinstance(folders, str) and not (isinstance(folders, list | tuple) and all(isinstance(one, str) for one in folders)):
            raise ValueError(f"got {json.dumps(folders, default=str)}, allowed: a folder, or a list of folders")
        return folders

    @field_validator("unlabelled")
    @classmethod
    def _named(cls, folders: str | tuple[str, ...]) -> str | tuple[str, ...]:
        given = (folders,) if isinstance(folders, str) else folders
        for folder in given:
            if not folder.strip():
                raise ValueError("a folder's name is empty; name a folder of images, or leave out the key")
            if given.count(folder) > 1:
                raise ValueError(f"{folder} is listed {given.count(folder)} times; list each folder once")
        return folders

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        return plugins.fill("stages.datasets", value, own=tuple(cls.model_fields), key="dataset")

    @property
    def unlabelled_folders(self) -> tuple[str, ...]:
        """The folders of images without labels."""
        return (self.unlabelled,) if isinstance(self.unlabelled, str) else self.unlabelled

    @property
    def labeled(self) -> "DataConfig":
        """The same without them: what preparing the labeled images depends on."""
        return self.model_copy(update={"unlabelled": ()})

    @property
    def options(self) -> dict[str, Any]:
        """The data set's own options, defaults filled in."""
        return dict(self.model_extra or {})
