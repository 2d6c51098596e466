"""The optimizer of a training, and its learning rate over the steps."""

import math
from collections.abc import Callable

import torch
from torch import nn

from stages.config import TrainConfig


def optimizer_for(task: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay is not applied to biases and normalization layers."""
    trained = [p for p in task.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


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
