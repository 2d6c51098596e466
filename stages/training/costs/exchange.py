"""What the processes of a training exchange in each step, and how long a step takes over a network that is not infinitely fast."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, log2

from torch import nn

from stages.training.layers.normalization import norms

_FLOAT = 4
FIRST_BUCKET, BUCKET = 1 << 20, 25 << 20
"""Bytes of gradients that torch's DistributedDataParallel exchanges together: those that come first, and all others."""
BACKWARD = 2 / 3
"""Part of a step in which gradients come, the last layer's first."""
PAYLOAD = 0.936
"""Part of an Ethernet link's rate that is left for what TCP carries: of two packets of 1,514 bytes 2 x 1,448, and 66 bytes are needed to
acknowledge as many that come in."""


@dataclass(frozen=True)
class Exchange:
    """Bytes per process and step.

    buckets: of gradients, in the order in which they are exchanged. norms: sums of each normalization that is synchronized, forward and
    backward. buffers: what the first process sends to all others before each step, such as frozen statistics and anchors.
    """

    buckets: tuple[int, ...]
    norms: tuple[int, ...]
    buffers: int

    @property
    def gradients(self) -> int:
        """Bytes of all gradients."""
        return sum(self.buckets)

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return self.gradients + sum(self.norms) + self.buffers

    def sent(self, hosts: int) -> float:
        """Bytes that each of several hosts sends in a step: sums go around a ring, norms to everybody."""
        ring = 2 * (hosts - 1) / hosts
        return ring * self.gradients + _norms_sent(self.norms, hosts) + self.buffers * _copies(hosts)


def exchange_of(network: nn.Module) -> Exchange:
    """What is exchanged for a network that is trained, a detector or a task with its losses; its norms as if it were in training mode."""
    sizes = [parameter.numel() * _FLOAT for parameter in network.parameters() if parameter.requires_grad]
    channels = [int(module.num_features) for module in norms(network) if _learns(module)]  # type: ignore[arg-type]
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in network.buffers())
    return Exchange(tuple(_bucketed(sizes[::-1])), tuple(2 * count * _FLOAT for count in channels), buffers)


def step_seconds(
    exchange: Exchange, compute_s: float, hosts: int, bytes_per_s: float, latency_s: float = 0.0, *, backward: float = BACKWARD
) -> float:
    """Seconds of a step on several hosts.

    Gradients are exchanged while others are still being computed, bucket after bucket; norms and buffers are waited for.

    Args:
        compute_s: seconds of a step on one host, with the images that it has of each batch.
        bytes_per_s: what a host can send; the rate of its link times `PAYLOAD`.
        latency_s: seconds that a small message takes from one host to another.
        backward: part of the step in which gradients come; 0 if all come at the end, as where hosts share cores and compute in turn.
    """
    if hosts == 1:
        return compute_s
    rounds = 2 * (hosts - 1)
    waited = (_norms_sent(exchange.norms, hosts) + exchange.buffers * _copies(hosts)) / bytes_per_s
    waited += latency_s * (3 * len(exchange.norms) * (hosts - 1) + (_copies(hosts) if exchange.buffers else 0))
    forward = compute_s * (1 - backward)
    free = 0.0
    for done, size in zip(accumulate(exchange.buckets), exchange.buckets, strict=True):
        comes = forward + compute_s * backward * done / exchange.gradients
        free = max(free, comes) + rounds / hosts * size / bytes_per_s + rounds * latency_s
    return waited + max(compute_s, free)


def _learns(module: nn.Module) -> bool:
    """Whether a normalization has statistics of its own; one whose parameters are all frozen is usually in evaluation mode."""
    own = list(module.parameters(recurse=False))
    return not own or any(parameter.requires_grad for parameter in own)


def _bucketed(sizes: Sequence[int]) -> list[int]:
    """Sizes put together in their order until a bucket is full."""
    buckets, own = list[int](), 0
    for size in sizes:
        own += size
        if own >= (BUCKET if buckets else FIRST_BUCKET):
            buckets.append(own)
            own = 0
    return [*buckets, own] if own else buckets


def _norms_sent(sizes: Sequence[int], hosts: int) -> float:
    """Forward, everyone sends its mean, squares and count on, for all others; backward, two sums go around a ring."""
    return sum((size + _FLOAT) * (hosts - 1) + 2 * (hosts - 1) / hosts * size for size in sizes)


def _copies(hosts: int) -> int:
    """How often the first one sends what all others get: those who have it pass it on."""
    return ceil(log2(hosts)) if hosts > 1 else 0
