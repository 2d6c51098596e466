"""Whether a rounded network computes in torch what its int8 graph computes, tensor by tensor.

A sum of the same numbers in another order may end on the other side of a half. In a deep network one such number changes all that follow,
so outputs that differ prove nothing. Here each tensor is computed from the graph's own: only numbers at a half can differ, by one step.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from deploy.precision.placement import Array, RoundingTable, Step

_MOST = 0.01
"""The largest share of a tensor's numbers that may differ by a step; one always may."""


class RoundingCheck:
    """Compares each rounded tensor with the graph's, which then takes its place.

    Args:
        rounded: the graph's tensors after their rounding, by name.
    """

    def __init__(self, table: RoundingTable, rounded: Mapping[str, Array]) -> None:
        self._names = {id(step): name for name, step in table.steps.items()}
        self._rounded = rounded
        self._apart = dict.fromkeys(table.steps, 1.0)  # also of what is never reached

    def take(self, found: Tensor, step: Step) -> Tensor:
        """Note how many numbers of a tensor differ; the graph's own tensor."""
        name = self._names[id(step)]
        wanted = torch.from_numpy(self._rounded[name])
        if wanted.shape != found.shape:
            return found
        steps = (found - wanted).abs() / step.scale
        differing = int((steps > 0.5).sum())
        self._apart[name] = 1.0 if float(steps.max()) > 1.5 else differing * (differing > 1) / steps.numel()
        return wanted

    def refused(self, found: Sequence[Array], rounded: Sequence[Array], exact: Sequence[Array]) -> str | None:
        """The first thing that is not the graph's; None if everything is.

        Args:
            found: the head outputs in torch. rounded: the int8 graph's. exact: without rounding.
        """
        for name, share in self._apart.items():
            if share > _MOST:
                return f"rounding of the tensor {name}"
        for own, other, plain in zip(found, rounded, exact, strict=True):
            effect, scale = float(np.square(other - plain).mean()), float(np.square(plain).mean())
            if float(np.square(own - other).mean()) > 0.05 * effect + 1e-9 * scale:
                return "rounding"
        return None
