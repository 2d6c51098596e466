"""A head with a background class, in the vocabulary of heads without one."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class SoftmaxHead(Mapping[str, tuple[Tensor, ...]]):
    """See Outputs.head; the class logits are computed each time that they are read.

    Args:
        logits: [B, N, K + 1] per level, the background first.
        deltas: [B, N, 4] per level.
    """

    def __init__(self, logits: tuple[Tensor, ...], deltas: tuple[Tensor, ...]) -> None:
        self._logits = logits
        self._deltas = deltas

    def __getitem__(self, name: str) -> tuple[Tensor, ...]:
        match name:
            case "class_logits":
                return tuple(log_odds(level.float())[..., 1:] for level in self._logits)
            case "box_deltas":
                return self._deltas
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("class_logits", "box_deltas"))

    def __len__(self) -> int:
        return 2


def log_odds(logits: Tensor) -> Tensor:
    """The logits [..., K] whose sigmoid is the softmax of the given ones, each minus the log-sum-exp of all others."""
    largest = logits.argmax(dim=-1, keepdim=True)
    others = torch.logsumexp(logits.scatter(-1, largest, -torch.inf), dim=-1, keepdim=True)  # of all but the largest
    everything = torch.logsumexp(logits, dim=-1, keepdim=True)
    # Leaving a term out of the sum by subtraction is exact enough if the term is at most half of it: never for the largest.
    share = torch.softmax(logits, dim=-1).scatter(-1, largest, 0.0)
    return logits - (everything + torch.log1p(-share)).scatter(-1, largest, others)
