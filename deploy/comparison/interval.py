"""A change with its uncertainty, and what a limit makes of it."""

import math
from typing import Literal

from deploy.contract import Frozen

ERROR_RATE = 0.01
"""Of each of the two wrong verdicts, a pass beyond the limit and a fail within it, all looks at the data together."""


class Effect(Frozen):
    """By how much something rose, in its own unit or as a share of the reference, with its interval at the stated error rate.

    `num` counts what was resampled, images or blocks of passes; 0 where the numbers are exact.
    """

    change: float
    low: float
    high: float
    num: int = 0

    def verdict(self, limit: float) -> Literal["pass", "fail", "inconclusive"]:
        """Whether it rose by at most `limit`: pass and fail where the whole interval says so."""
        if self.high <= limit:
            return "pass"
        return "fail" if self.low > limit else "inconclusive"

    def needed(self, limit: float) -> int | None:
        """How many images or blocks would tell, if the change stayed as it is; None where it is the limit itself."""
        distance = limit - self.change
        width = self.high - self.change if distance > 0 else self.change - self.low
        if distance == 0 or width <= 0:
            return None
        return math.ceil(self.num * (width / abs(distance)) ** 2 - 1e-9)

    def reversed(self) -> "Effect":
        """How much it fell."""
        return Effect(change=-self.change, low=-self.high, high=-self.low, num=self.num)
