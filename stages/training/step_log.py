"""The terms of training steps, which stay on their device until those of several steps are fetched together.

Asking a GPU for a number waits until it has computed everything before it; a step that asks for none is queued while others run.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deploy.errors import Diverged
from stages.processes import mean_over_processes

EVERY_GPU = 50
"""Steps after which the terms are fetched from a GPU; on a CPU, where they are at hand, after each."""

SHARE = "share/"
"""How names of terms begin that only inform: a step goes without those that are not finite, and the training goes on."""


@dataclass
class _Part:
    """A part of a step's batch: its share of the images, and its terms [T] by name."""

    share: float
    names: tuple[str, ...]
    values: Tensor


@dataclass
class _Step:
    step: int
    epoch: int
    parts: list[_Part] = field(default_factory=list)
    norm: Tensor | None = None


class StepLog:
    """Collects the terms of steps; `label` names the training in errors, `note` has the last loss that was fetched."""

    def __init__(self, label: str, device: torch.device) -> None:
        self._label = label
        self._every = 1 if device.type == "cpu" else EVERY_GPU
        self._steps: list[_Step] = []
        self.note = ""

    def begin(self, step: int, epoch: int) -> None:
        """Start a step of an epoch, both counted from 0."""
        self._steps.append(_Step(step, epoch))

    def add(self, share: float, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        """The loss and the named terms of a part of the step's batch."""
        values = torch.stack([*(term.detach().float() for term in terms.values()), loss.detach().float()])
        self._steps[-1].parts.append(_Part(share, (*terms, "loss"), values))

    def add_norm(self, norm: Tensor) -> None:
        """The norm of the step's gradient."""
        self._steps[-1].norm = norm.detach().float()

    @property
    def is_due(self) -> bool:
        """Whether enough steps are waiting."""
        return len(self._steps) >= self._every

    def fetch(self) -> list[dict[str, float]]:
        """The terms of all steps that are waiting, averaged over processes; the norms of the gradients are those of this process.

        Norms that are not finite are left out, and shares with a part or process that has none.

        Raises:
            Diverged: a term is not finite; the message names it and its step.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return []
        parts = [part for one in steps for part in one.parts]
        norms = [one.norm for one in steps if one.norm is not None]
        means = mean_over_processes(torch.cat([part.values for part in parts]))
        numbers = iter(torch.cat([means, *(norm.reshape(1).to(means.device) for norm in norms)]).tolist())
        found = [[dict(zip(part.names, numbers, strict=False)) for part in one.parts] for one in steps]
        for one, values in zip(steps, found, strict=True):
            self._refuse(one, values)
        rows = [self._joined(one, values) for one, values in zip(steps, found, strict=True)]
        for one, row in zip(steps, rows, strict=True):
            if one.norm is not None and math.isfinite(norm := next(numbers)):
                row["grad_norm"] = norm
        self.note = f"loss {rows[-1]['loss']:.3f}"
        return rows

    def _joined(self, step: _Step, parts: list[dict[str, float]]) -> dict[str, float]:
        row: dict[str, float] = defaultdict(float)
        for part, values in zip(step.parts, parts, strict=True):
            for name, value in values.items():
                row[name] += value * part.share
        return {name: value for name, value in row.items() if math.isfinite(value) or not name.startswith(SHARE)}

    def _refuse(self, step: _Step, parts: list[dict[str, float]]) -> None:
        for name, value in (pair for part in parts for pair in part.items()):
            if not math.isfinite(value) and not name.startswith(SHARE):
                where = f"step {step.step} (epoch {step.epoch + 1})"
                raise Diverged(f"{self._label}: {name} is {value} at {where}; lower train.learning_rate or the loss's weight")
