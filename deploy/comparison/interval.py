"""A change with its uncertainty, and the verdict against a limit."""

import math
from typing import Literal

from deploy.contract import Frozen

ERROR_RATE = 0.01
"""Probability of each wrong verdict (a pass beyond the limit, a fail within it), over all looks at the data together."""

OUTSIDE = 0.025
"""What lies on each side of an interval that is shown, which covers 95%."""

MIN_IMAGES = 20
"""Resampling fewer images with objects that count does not show how much they vary."""


class Effect(Frozen):
    """How much something rose, in its own unit or as a fraction of the reference, with its interval at the stated error rate.

    `num` is the number of images or blocks of passes that were resampled; 0 if the numbers are exact.
    """

    change: float
    low: float
    high: float
    num: int = 0

    def verdict(self, limit: float) -> Literal["pass", "fail", "inconclusive"]:
        """Whether it rose by at most `limit`: pass or fail only if the entire interval agrees."""
        if self.high <= limit:
            return "pass"
        return "fail" if self.low > limit else "inconclusive"

    def needed(self, limit: float) -> int | None:
        """Number of images or blocks that would suffice for the same change; None if it equals the limit or its interval has no width."""
        distance = limit - self.change
        width = self.high - self.change if distance > 0 else self.change - self.low
        if distance == 0 or width <= 0:
            return None
        return math.ceil(self.num * (width / abs(distance)) ** 2 - 1e-9)

    def reversed(self) -> "Effect":
        """How much it fell."""
        return Effect(change=0.0 - self.change, low=0.0 - self.high, high=0.0 - self.low, num=self.num)
