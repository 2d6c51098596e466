"""What a network sees in the whole image, added to every position.

Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCV workshops 2019, https://arxiv.org/abs/1904.11492.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


class GlobalContext(nn.Module):
    """Computes what is added to features [B, C, H, W] at every position, [B, C]; initially nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.attention = nn.Linear(channels, 1)
        self.squeeze = nn.Linear(channels, inner)
        self.norm = nn.LayerNorm(inner)
        self.expand = nn.Linear(inner, channels)
        nn.init.kaiming_normal_(self.attention.weight, nonlinearity="relu")
        for bias in (self.attention.bias, self.expand.bias):
            nn.init.zeros_(bias)
        nn.init.zeros_(self.expand.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Outside of autocast: sums over positions overflow half precision, and cost next to nothing."""
        with torch.autocast(features.device.type, enabled=False):
            rows = features.flatten(2).transpose(1, 2)
            weights = (rows @ self.attention.weight.t() + self.attention.bias).softmax(dim=1)
            context = (weights.transpose(1, 2) @ rows)[:, 0]
            hidden = relu(self.norm(self.squeeze(context)))
            added: Tensor = self.expand(hidden)
            return added
