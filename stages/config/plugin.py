"""Sections that choose a plugin and carry its options."""

import os
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from deploy import plugins
from deploy.contract import Frozen
from deploy.plugins import OptionRole

Fraction = Annotated[float, Field(ge=0, le=1)]

Positive = Annotated[float, Field(gt=0)]


def from_home(path: str) -> str:
    """The path with the home folder in place of `~`; as it is if there is no such user."""
    return os.path.expanduser(path)  # noqa: PTH111 - pathlib raises RuntimeError


WeightsPath = Annotated[str, AfterValidator(from_home)]
"""A file or a folder of weights; `~` is the home folder."""


class Plugin(Frozen):
    """`{name: ..., option: ...}`: the options are written next to the name; the plugin file's keyword-only parameters are their schema."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The options, defaults filled in."""
        return dict(self.model_extra or {})


class DetectorConfig(Plugin):
    """A file of stages/detectors with its options."""

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        filled = plugins.fill("stages.detectors", value, own=tuple(cls.model_fields))
        given = {name: filled[name] for name in plugins.options_of("stages.detectors", filled["name"], OptionRole.WEIGHTS)}
        return filled | {name: from_home(one) for name, one in given.items() if one is not None}

    def options_of(self, role: OptionRole) -> dict[str, Any]:
        """The options that have a role, with their values."""
        return {name: self.options[name] for name in plugins.options_of("stages.detectors", self.name, role)}
