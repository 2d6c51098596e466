"""Sections distill.unlabelled and teacher.unlabelled: what is learned from images without labels.

Keys are spelled `unlabelled`, as data.unlabelled is.
"""

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from deploy import plugins
from deploy.contract import Frozen
from stages.config.augmentations import Color, Corrupt
from stages.config.plugin import Fraction

Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(ge=0, le=16)]
Strong = Annotated[Color | Corrupt, Field(discriminator="name")]
STRONG = (Color(name="color", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),)


View = Literal["mirror", "zoom"]
"""An image mirrored left to right; four overlapping parts of it, enlarged."""

SELF_START = 0.3
"""The share of a training after which its averaged weights label, unless the file says otherwise."""


class PseudoConfig(Frozen):
    """A teacher's detections as targets. Thresholds are chosen on `validation.split`, for every class by itself."""

    weight: float = Field(default=1.0, gt=0, description="factor on the task losses of unlabeled images")
    threshold: Share | Literal["auto"] = Field(
        default="auto", description="least score of a detection that is a target; `auto`: per class, the least one that reaches `precision`"
    )
    precision: Share = Field(
        default=0.8,
        description="share of the accepted detections that are to be objects (IoU 0.5) on the split that networks are judged on",
    )
    box_precision: Share = Field(
        default=0.6, description="share of the detections whose boxes are learned that are to be exact (IoU 0.75) on that split"
    )
    views: tuple[View, ...] | Literal["auto"] = Field(
        default="auto",
        description="views of an image whose detections are joined with those in the image as it is; `auto`: those with the highest mAP "
        "on that split",
    )
    ignore: bool = Field(
        default=True, description="learn nothing where a detection below the threshold may be an object; if false, it counts as background"
    )
    start: Fraction = Field(default=0.0, description="share of the training before pseudo-labels are used")
    warmup: Fraction = Field(default=0.1, description="share of the training over which `weight` rises from 0, from `start` on")

    @field_validator("threshold", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        if isinstance(value, str) and value != "auto":
            raise ValueError(f'got "{value}"{plugins.suggest(value, ["auto"])}, allowed: a number above 0 to 1, or auto')
        if isinstance(value, int | float) and not 0 < value <= 1:
            raise ValueError(f"got {value:g}, allowed: a number above 0 to 1, or auto")
        return value

    @field_validator("views", mode="before")
    @classmethod
    def _views_or_auto(cls, value: object) -> object:
        known = get_args(View)
        if value != "auto" and not isinstance(value, list | tuple):
            meant = plugins.suggest(value, ["auto", *known]) if isinstance(value, str) else ""
            raise ValueError(f"got {json.dumps(value, default=str)}{meant}, allowed: auto, or a list of {', '.join(known)}")
        if isinstance(value, list | tuple):
            for one in value:
                if one not in known:
                    raise ValueError(f"no view '{one}'{plugins.suggest(str(one), known)}; choose from {', '.join(known)}")
                if list(value).count(one) > 1:
                    raise ValueError(f"{one} is listed {list(value).count(one)} times; list each view once")
            return tuple(one for one in known if one in value)
        return value

    @field_validator("start")
    @classmethod
    def _begins(cls, start: float) -> float:
        if start == 1:
            raise ValueError("1 is the end of the training, so pseudo-labels would never be used; choose less, or leave out pseudo")
        return start

    def weight_at(self, share: float) -> float:
        """The factor on the task losses when this share of the training is done; 0 before `start`."""
        if share < self.start:
            return 0.0
        risen = 1.0 if not self.warmup else min(1.0, (share - self.start) / self.warmup)
        return self.weight * max(risen, 1e-3)


class _Stream(Frozen):
    ratio: Ratio = Field(default=1.0, description="unlabeled images per labeled one in every step; 0: the training without them")
    images: int | None = Field(
        default=None,
        ge=1,
        description="maximum number of unlabeled images; the same ones every time, and a larger number includes a smaller one's; null: all",
    )
    strong: tuple[Strong, ...] = Field(
        default=STRONG, description="changes of color or corruptions of the view that learns; the view that is labeled has none"
    )

    @property
    def is_used(self) -> bool:
        """Whether any unlabeled image is used."""
        return self.ratio > 0

    def batch_size(self, labeled: int) -> int:
        """Unlabeled images of a step, over all processes, for this number of labeled ones."""
        return max(1, round(self.ratio * labeled)) if self.ratio else 0


class UnlabelledConfig(_Stream):
    """What the student learns from images without labels."""

    features: bool = Field(
        default=True, description="whether the losses that read no targets also compare the networks on unlabeled images"
    )
    pseudo: PseudoConfig | None = Field(default=PseudoConfig(), description="the teacher's detections as targets; null: none")
    refine: Share | None = Field(
        default=None, description="share of the training after which the averaged student labels in the teacher's place; null: never"
    )
    classes: dict[str, str] | tuple[str, ...] | None = Field(
        default=None,
        description="which classes of a teacher that was trained for more are taught: `[person, car]`, or the data's name for each: "
        "`{pedestrian: person}`, whatever `ratio` is; null: the teacher has the data's",
    )
    only: bool = Field(default=False, description="train the student on unlabeled images only, `ratio` times `batch_size` of them per step")

    @field_validator("classes", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if value is None:
            return None
        names = list(value.values() if isinstance(value, dict) else value) if isinstance(value, dict | list | tuple) else []
        if not names or not all(isinstance(one, str) and one for one in names):
            raise ValueError(
                f"got {json.dumps(value, default=str)}, allowed: a list of names, or a mapping of the data's names to the teacher's"
            )
        for one in names:
            if names.count(one) > 1:
                raise ValueError(f"{one} is named {names.count(one)} times; name each class once")
        return value

    @property
    def taught(self) -> dict[str, str] | None:
        """The teacher's name of each of the data's classes; None if it has the same."""
        return {one: one for one in self.classes} if isinstance(self.classes, tuple) else self.classes

    @model_validator(mode="after")
    def _fits(self) -> "UnlabelledConfig":
        if not self.features and self.pseudo is None:
            raise ValueError("features is false and pseudo is null, so nothing is learned from unlabeled images; set one, or ratio to 0")
        if self.refine is not None and self.pseudo is None:
            raise ValueError(f"refine: {self.refine:g} needs pseudo-labels; leave out pseudo: null, or refine")
        if self.refine is not None and self.pseudo is not None and self.refine < self.pseudo.start:
            raise ValueError(f"refine: {self.refine:g} is before pseudo.start, {self.pseudo.start:g}; begin it later")
        if self.only and self.pseudo is None:
            raise ValueError("only: true needs pseudo-labels, without which no class is learned; leave out pseudo: null")
        if self.only and self.pseudo is not None and self.pseudo.start:
            raise ValueError(f"only: true has nothing to learn before pseudo.start, {self.pseudo.start:g}; set it to 0")
        if self.only and not self.ratio:
            raise ValueError("only: true with ratio: 0 has no images at all; set ratio to 1, or only to false")
        return self

    @property
    def images_per_labeled(self) -> float:
        """How many images a step reads for each one that it reads without the section."""
        return self.ratio if self.only else 1 + self.ratio

    @property
    def rule(self) -> "UnlabelledConfig":
        """What decides which detections are targets, so that nothing else labels the images again."""
        if self.pseudo is None:
            return UnlabelledConfig(pseudo=None)
        chosen = {key: getattr(self.pseudo, key) for key in ("threshold", "precision", "box_precision", "views")}
        return UnlabelledConfig(pseudo=PseudoConfig(**chosen))


class SelfTrainingConfig(_Stream):
    """What the teacher learns from images without labels: its averaged weights label them for it."""

    labels: Literal["own", "first"] = Field(
        default="own",
        description="who labels: `own`: its averaged weights while they learn; `first`: a teacher that is trained on the labeled images "
        "before, and may join several views of an image",
    )
    pseudo: PseudoConfig = Field(
        default=PseudoConfig(start=SELF_START),
        description="detections as targets; those of the averaged weights once they have learned something",
    )

    @model_validator(mode="before")
    @classmethod
    def _starts_late(cls, value: Any) -> Any:
        """Other options of pseudo do not let it begin with weights that have learned nothing; a trained teacher may label at once."""
        if isinstance(value, dict) and isinstance(value.get("pseudo", {}), dict):
            start = 0.0 if value.get("labels") == "first" else SELF_START
            return {**value, "pseudo": {"start": start, **value.get("pseudo", {})}}
        return value

    @model_validator(mode="after")
    def _labels_each_view(self) -> "SelfTrainingConfig":
        if self.labels == "own" and self.pseudo.views not in ("auto", ()):
            raise ValueError("pseudo.views: the averaged weights label each view that is learned; set labels to first, or leave it out")
        return self

    @property
    def rule(self) -> UnlabelledConfig:
        """What decides which detections are targets; averaged weights look at one view."""
        views = () if self.labels == "own" else self.pseudo.views
        return UnlabelledConfig(pseudo=self.pseudo.model_copy(update={"views": views})).rule
