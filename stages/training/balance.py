"""Weights of losses that follow the gradient: `weight: auto`.

Each term is scaled to a share of the gradient at the student's features. The idea of weights from norms of gradients is that of Chen et
al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018,
https://arxiv.org/abs/1711.02257. Departures: norms are measured at the features instead of at shared weights, which is cheaper; the
weights are computed instead of learned; the shares are fixed, whatever the terms' values do.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from stages.config.distillation import Weight

EVERY = 50
"""Steps between measurements, once the first ones, at steps 0, 1, 2, 4, 8, 16 and 32, have been taken."""

SHARE_OF_LATEST = 0.2
"""How much the latest measurement counts; all others together count the rest. The first five count alike."""

SUDDEN = 10.0
"""How many times the mean of those before it a norm may be; a larger one replaces the mean."""

TASK = "task"
"""The name of the task losses' part of the gradient."""


class Balance:
    """The factor on each part of the loss, a term without its level, as "<loss>/<term>".

    A loss with a number keeps it. Losses with auto get `share` of the sum of all parts' norms, in equal parts, and each divides its own
    equally among its terms. Norms are averaged over measurements, as logarithms: they change slowly, and a batch without gradient, or
    with one that is not finite, is left out. A term that has not had any gradient yet has factor 0. Terms behind layers that start at zero
    begin with next to no gradient, and so with large factors: these fall as soon as there is one.

    Args:
        weights: of each loss.
        share: above 0, below 1.
    """

    def __init__(self, weights: Mapping[str, Weight], share: float) -> None:
        self._fixed = {name: weight for name, weight in weights.items() if weight != "auto"}
        self._found = tuple(name for name, weight in weights.items() if weight == "auto")
        self._share = share
        self._logs: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def due(self, step: int) -> bool:
        """Whether norms are measured in this step: never if each loss has a number."""
        return bool(self._found) and (step % EVERY == 0 or (step < EVERY and step & (step - 1) == 0))

    def see(self, norms: Mapping[str, float]) -> None:
        """Take a measurement: the norm of each part's gradient at the features, without the factor on it; "task" is the task's."""
        for part, norm in norms.items():
            if not math.isfinite(norm) or norm <= 0:
                continue
            log = math.log(norm)
            before = self._logs.get(part, log)
            is_sudden = _loss(part) in self._found and log - before > math.log(SUDDEN)
            count = self._counts[part] = 1 if is_sudden else self._counts.get(part, 0) + 1
            self._logs[part] = before + (log - before) * max(1 / count, SHARE_OF_LATEST)

    def found(self) -> Iterator[str]:
        """The parts whose factor is found and not given."""
        return (part for part in self._logs if _loss(part) in self._found)

    def factor(self, part: str) -> float:
        """The factor on a part."""
        if part == TASK:
            return 1.0
        if (name := _loss(part)) in self._fixed:
            return float(self._fixed[name])
        if part not in self._logs or TASK not in self._logs:
            return 0.0
        terms = sum(_loss(other) == name for other in self._logs)
        given = sum(self.factor(other) * math.exp(log) for other, log in self._logs.items() if _loss(other) not in self._found)
        return given * self._share / (1 - self._share) / len(self._found) / terms / math.exp(self._logs[part])

    def state_dict(self) -> dict[str, Any]:
        """For accelerate."""
        return {"logs": dict(self._logs), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """For accelerate."""
        self._logs, self._counts = dict(state["logs"]), dict(state["counts"])


def _loss(part: str) -> str:
    return part.partition("/")[0]
