"""The optimizer of a training, its learning rate over the steps, and the moving average of the weights."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network that follows its weights and statistics as a moving average; whole numbers, such as indices, are its own."""
    average = get_ema_multi_avg_fn(decay)

    def follow(own: Sequence[Tensor], current: Sequence[Tensor], count: Any) -> None:
        if own[0].is_floating_point():  # torch gives tensors of one type at a time, and would round down what is not
            average(own, current, count)
            return
        for one, other in zip(own, current, strict=True):
            one.copy_(other)

    return AveragedModel(network, multi_avg_fn=follow, use_buffers=True)
