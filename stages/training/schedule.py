"""The learning rate over a training."""

import math
from collections.abc import Callable

from stages.config import TrainConfig


def learning_rate(config: TrainConfig, num_steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at each step: linear warm-up, then the schedule down to the end."""

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        done = step / max(1, num_steps)
        if config.schedule == "cosine":
            return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        if config.schedule == "multistep":
            return warmup * config.gamma ** sum(done >= milestone for milestone in config.milestones)
        return warmup

    return factor
