"""The section `gates` of pipeline.yaml: limits on measured numbers, and on how far they may differ from others."""

import re
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from deploy.comparison import metrics
from deploy.contract import Frozen

Versus = Literal["teacher", "baseline", "float", "reference"]
SHARE = r"^\d+(\.\d+)?%$"
Tolerance = float | Annotated[str, Field(pattern=SHARE)]
"""An amount in the metric's own unit, or a share of the value compared with: "5%"."""


class GateConfig(Frozen):
    """A limit on a number, for one target or all targets measured on this machine: `min`, `max` or both, or a limit on a change.

    Metrics: see deploy.comparison.metrics. Changes have a confidence interval: accuracy per image, latency in alternation on this machine.
    """

    metric: str
    name: str | None = None
    target: str | None = None
    min: float | None = None
    max: float | None = None
    max_drop: Tolerance | None = Field(default=None, description="how far the metric may fall below its value for `versus`: 0.01, or 5%")
    max_increase: Tolerance | None = Field(default=None, description="how far the metric may rise above its value for `versus`: 2, or 5%")
    versus: Versus | None = Field(
        default=None,
        description="what to compare with; float is the student's graph as exported, in fp32; reference is what gate --reference names",
    )
    on_noise: Literal["inconclusive", "pass", "fail"] = Field(
        default="inconclusive", description="verdict if the confidence interval straddles the limit, or too little was measured"
    )

    @property
    def is_change(self) -> bool:
        """Whether it limits a change rather than the number itself."""
        return self.max_drop is not None or self.max_increase is not None

    @property
    def other(self) -> Versus | None:
        """What a change is measured from; None for a gate on the number itself."""
        return (self.versus or "reference") if self.is_change else None

    @property
    def network(self) -> str | None:
        """The network that the metric is a difference from, or a ratio to; None for any other metric."""
        return metrics.FROM.get(self.metric) or metrics.SPEEDUPS.get(self.metric)

    @property
    def limit(self) -> tuple[float, bool]:
        """A change's limit, and whether it is a share."""
        given = self.max_increase if self.max_drop is None else self.max_drop
        assert given is not None
        return (float(Fraction(given.removesuffix("%")) / 100), True) if isinstance(given, str) else (given, False)

    @field_validator("max_drop", "max_increase", mode="before")
    @classmethod
    def _is_an_amount(cls, value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(SHARE, value):
            raise ValueError(f"'{value}' is neither a number nor a share such as 5%")
        return value

    @model_validator(mode="after")
    def _has_one_kind_of_limit(self) -> "GateConfig":
        absolute = self.min is not None or self.max is not None
        if not absolute and not self.is_change:
            raise ValueError("set min, max or both, or one of max_drop and max_increase")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:.12g} is above max {self.max:.12g}, so no number passes; lower min or raise max")
        if self.max_drop is not None and self.max_increase is not None:
            raise ValueError("max_drop and max_increase in one gate; use a separate gate for each")
        if absolute and self.is_change:
            raise ValueError("min or max together with max_drop or max_increase; use a separate gate for each")
        if self.is_change and not metrics.can_be_compared(self.metric):
            raise ValueError(f"metric {self.metric} with max_drop or max_increase; choose from {', '.join(metrics.COMPARED)}")
        if self.is_change and self.limit[0] < 0:
            raise ValueError(f"{'max_increase' if self.max_drop is None else 'max_drop'} {self.limit[0]:g}; allowed: 0 or more")
        if absolute and (self.versus is not None or self.on_noise != "inconclusive"):
            raise ValueError("versus and on_noise require max_drop or max_increase; min and max limit the number itself")
        return self
