"""The quantizer's rounding in torch: a network inside `Rounding` computes as its int8 graph does, with gradient.

Rounding is torch's own fake quantization, with gradient as if it did nothing within its range. It is given scale 1 and values that are
already divided: on its own it multiplies by the reciprocal of a scale, where ONNX divides, and the two round some values differently.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from deploy.precision.placement import Step
from stages.int8.walk import Site, Walk, name_of

LAYERS = ("conv2d", "conv_transpose2d", "linear")
"""Functions of torch with an input, a weight and a bias."""


@dataclass(frozen=True)
class RoundedWeight:
    """A weight with the axis of its channels, and what is added after it: its module's bias, or a folded batch norm's.

    reads: the rounding of its module's input, each time that it runs; the last one also for runs after these.
    """

    weight: nn.Parameter
    axis: int
    bias: Tensor | None
    norm: nn.Module | None
    rounds_bias: bool
    reads: tuple[Step | None, ...]


class Rounding(Walk):
    """Rounds the results at `sites`, and weights with what their modules read.

    Args:
        limit: the largest weight of each channel becomes this integer.

    `replace` may put another tensor in place of each that was rounded.
    """

    def __init__(self, network: nn.Module, sites: Mapping[Site, Step], weights: list[RoundedWeight], limit: int) -> None:
        super().__init__(network)
        self._sites = sites
        self._weights = {id(one.weight): one for one in weights}
        self._norms = {id(one.norm.weight) for one in weights if one.norm is not None}
        self._limit = limit
        self._scales: dict[int, tuple[Tensor, float]] = {}  # of rounded tensors, which are kept so that their ids stay theirs
        self._made: dict[int, tuple[Tensor, Tensor]] = {}
        self._turn: dict[int, int] = {}
        self._reached: set[Site] = set()
        self.replace: Callable[[Tensor, Step], Tensor] | None = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        self._scales, self._made, self._turn = {}, {}, {}

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See Walk.call."""
        name = name_of(func)
        if name == "batch_norm" and id(_argument(args, kwargs, 3, "weight")) in self._norms:
            return _argument(args, kwargs, 0, "input")
        own = self._weights.get(id(_argument(args, kwargs, 1, "weight"))) if name in LAYERS else None
        if own is None:
            return func(*args, **kwargs)
        given = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias")}
        return func(*self._rounded(own, _argument(args, kwargs, 0, "input")), *args[3:], **given)

    def result(self, site: Site, func: Callable[..., Any], result: Tensor) -> Tensor:
        """See Walk.result."""
        step = self._sites.get(site)
        if step is None:
            return result
        self._reached.add(site)
        return self._round(result, step)

    def unreached(self) -> Site | None:
        """A place that was never reached although its module ran: it computes something else in a training than in the graph."""
        return next((site for site in self._sites if site not in self._reached and self._runs.get(site.module, 0) > site.run), None)

    def _rounded(self, own: RoundedWeight, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the layer is given: its input, its weight and its bias."""
        turn = self._turn.get(id(own.weight), 0)
        self._turn[id(own.weight)] = turn + 1
        step = own.reads[min(turn, len(own.reads) - 1)]
        if step is not None and id(images) not in self._scales:
            images = self._round(images, step)
        if id(own.weight) not in self._made:
            self._made[id(own.weight)] = rounded_weight(own.weight, own.axis, self._limit)
        weight, scale = self._made[id(own.weight)]
        if own.bias is None or not own.rounds_bias or id(images) not in self._scales:
            return images, weight, own.bias
        return images, weight, _rounded_bias(own.bias, scale * self._scales[id(images)][1])

    def _round(self, values: Tensor, step: Step) -> Tensor:
        found = rounded(values, step)
        if self.replace is not None:
            found = self.replace(found, step)
        self._scales[id(found)] = found, step.scale
        return found


def rounded(values: Tensor, step: Step) -> Tensor:
    """The values after QuantizeLinear and DequantizeLinear."""
    inner = torch.fake_quantize_per_tensor_affine(values / step.scale, 1.0, step.zero_point, step.low, step.high)
    return inner * step.scale


def rounded_weight(weight: Tensor, axis: int, limit: int) -> tuple[Tensor, Tensor]:
    """A weight as the quantizer writes it, and the scale of each channel [C]; it follows the weight's largest value."""
    others = [dim for dim in range(weight.dim()) if dim != axis]
    most = weight.detach().abs().amax(dim=others).double()
    scale = (2 * most / (2 * limit)).to(weight.dtype)
    scale = torch.where(scale < torch.finfo(weight.dtype).tiny, torch.ones_like(scale), scale)
    wide = scale.reshape([-1 if dim == axis else 1 for dim in range(weight.dim())])
    return torch.fake_quantize_per_tensor_affine(weight / wide, 1.0, 0, -128, 127) * wide, scale


def _rounded_bias(bias: Tensor, scale: Tensor) -> Tensor:
    found = (bias.detach().double() / scale.double()).round().to(bias.dtype) * scale
    return found + (bias - bias.detach())  # the difference is exactly 0, and carries the gradient


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], index: int, name: str) -> Any:
    return args[index] if len(args) > index else kwargs.get(name)
