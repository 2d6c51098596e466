"""Section robustness: what engines are judged on in addition to the validation split as it is."""

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from deploy.accuracy.conditions import Corruptions
from deploy.comparison import metrics
from deploy.contract import Frozen
from deploy.plugins import suggest
from stages.config.data import SPLIT_NAME

GROUPING_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
SOURCES = ("field", "pattern", "csv", "by")


class GroupingConfig(Frozen):
    """How the validation split is divided into groups: one of `field`, `pattern`, `csv` and `by`."""

    field: str | None = Field(default=None, min_length=1, description="key of `images[]` in the COCO annotation file")
    pattern: str | None = Field(
        default=None, min_length=1, description="regular expression that is searched in each file name; its one group `( )` is the group"
    )
    csv: str | None = Field(default=None, min_length=1, description="CSV file with the columns `file` and `group`, one row per image")
    by: Literal["size", "crowding"] | None = Field(
        default=None, description="size: objects by COCO's ranges of area; crowding: images with 1, 2 to 5, and 6 or more objects"
    )

    @field_validator("pattern")
    @classmethod
    def _has_one_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            count = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"'{pattern}' is not a regular expression ({error})") from None
        if count != 1:
            raise ValueError(f"'{pattern}' has {count} groups in parentheses; put exactly one around what names the group")
        return pattern

    @model_validator(mode="after")
    def _has_one_source(self) -> "GroupingConfig":
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"set exactly one of {', '.join(SOURCES)}; given: {', '.join(given) or 'none'}")
        return self


class RobustnessConfig(Frozen):
    """Other splits, groups of images and corruptions; all engines are judged on them, with those of teacher, baseline and float graph."""

    splits: tuple[Annotated[str, Field(pattern=SPLIT_NAME)], ...] = Field(
        default=(), description="splits of the data on which mAP is measured in addition to `validation.split`"
    )
    corruptions: Corruptions | None = Field(
        default=None,
        description="fifteen corruptions of the validation images; quick: severity 3, half of them (100 to 200); full: severities 1 to 5",
    )
    groups: dict[Annotated[str, Field(pattern=GROUPING_NAME)], GroupingConfig] = Field(
        default={}, description="ways to divide the validation images, by a name of your choice"
    )
    min_images: int = Field(default=20, ge=2, description="groups of fewer images are shown, but are not the worst group")

    @property
    def swept(self) -> "RobustnessConfig":
        """The part that decides what is swept, so that other groups or splits sweep nothing again."""
        return RobustnessConfig(corruptions=self.corruptions)

    @property
    def is_asked(self) -> bool:
        """Whether anything is measured."""
        return bool(self.splits or self.corruptions or self.groups)

    def lacking(self, there: Iterable[str]) -> list[str]:
        """A line for each split that data with the splits `there` does not have, with what to write instead."""
        known = sorted(there)
        left = f"splits: [{', '.join(name for name in self.splits if name in known)}]"
        return [
            f"robustness.splits: no split '{name}'{suggest(name, known)}: the data has {', '.join(known)}; to go without, write {left}"
            for name in self.splits
            if name not in known
        ]

    def why_not_measured(self, metric: str) -> str | None:
        """Why a metric of robustness has no value; None if it has one, or is of another kind."""
        if metric.startswith(metrics.ON_SPLIT) and (split := metric.removeprefix(metrics.ON_SPLIT)) not in self.splits:
            named = f"; did you mean {metrics.ON_SPLIT}{self.splits[0]}?" if len(self.splits) == 1 else ""
            return f"{metric} needs robustness.splits to list {split or 'a split'}, and it lists {', '.join(self.splits) or 'none'}{named}"
        if metric in {metrics.MPC, metrics.RPC} and self.corruptions is None:
            return f"{metric} needs robustness.corruptions; set it to quick or full"
        if metric == metrics.WORST_GROUP and not self.groups:
            return f"{metric} needs robustness.groups; add one, such as {{crowding: {{by: crowding}}}}"
        return None

    @field_validator("splits")
    @classmethod
    def _distinct(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        for name in splits:
            if splits.count(name) > 1:
                raise ValueError(f"{name} is listed {splits.count(name)} times; list each split once")
        if "train" in splits:
            raise ValueError("the networks are trained on split train; choose different splits")
        return splits
