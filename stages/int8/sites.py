"""Where in torch the quantizer's tensors and weights are computed: found by their values on an image.

A tensor of the graph is the first result in torch with its values; a weight of the graph is the parameter with its values. So a
detector needs nothing to be trained for int8 but modules that compute the same in a training and in its graph.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.errors import ConfigError
from deploy.precision.placement import Array, RoundedLayer, RoundingTable
from stages.detectors import Detector
from stages.detectors.backbones.deformable import DeformableConvolution
from stages.int8.rounding import LAYERS, RoundedWeight, Rounding
from stages.int8.walk import OUTSIDE, Site, Walk, name_of

_CLOSE = 1e-3
"""Difference in a tensor or weight, as a share of its largest value, up to which it is the same in torch."""

_SAMPLES = 512
_ACTIVATIONS = ("relu", "clamp", "hardtanh")
_CUT = ("Relu", "Clip")


@dataclass(frozen=True)
class _Result:
    site: Site
    name: str
    shape: tuple[int, ...]
    samples: NDArray[np.float32]


class _Recording(Walk):
    """Samples of each result, taken at once: some are overwritten later."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.results: list[_Result] = []

    def result(self, site: Site, func: Callable[..., Any], result: Tensor) -> Tensor:
        """See Walk.result."""
        if site.module != OUTSIDE:
            samples = _samples(result.detach().cpu().float().numpy())
            self.results.append(_Result(site, name_of(func), tuple(result.shape), samples))
        return result


@torch.no_grad()
def find(
    detector: Detector,
    run: Callable[[], object],
    placement: RoundingTable,
    values: Mapping[str, Array],
    weights: Mapping[str, Array],
    folded: Mapping[nn.Module, nn.Module],
    limit: int,
) -> Rounding:
    """The rounding of the detector. Its weights become exactly the graph's.

    Args:
        run: computes the deployed graph in torch once, on the image that `values` of the graph's tensors are from.
        weights: the graph's weights and biases, with batch norms folded.
        folded: convolutions with the batch norms that were folded into them.

    Raises:
        ConfigError: the detector computes something in a different way in torch.
    """
    with _Recording(detector) as recording:
        run()
    assert isinstance(recording, _Recording)
    sites = _sites(placement, values, recording.results)
    owners = _owners(detector)
    rounded = []
    for layers in _by_weight(placement.layers):
        owned = _owner(layers, weights, owners, detector)
        owners = [one for one in owners if one[0] is not owned[0]]  # two parameters may have the same values
        rounded.append(_weight(layers, owned, placement, weights, folded))
    read = {layer.reads for layer in placement.layers}
    missing = [name for name in placement.steps if name not in sites and name not in read]
    if missing:
        raise not_rounded(detector, f"the tensor {missing[0]}")
    return Rounding(detector, {site: placement.steps[name] for name, site in sites.items()}, rounded, limit)


def _sites(placement: RoundingTable, values: Mapping[str, Array], results: Sequence[_Result]) -> dict[str, Site]:
    found: dict[str, Site] = {}
    taken: set[Site] = set()
    for name in placement.steps:
        wanted = values[name]
        samples = _samples(wanted)
        same = [one for one in results if one.shape == wanted.shape and one.site not in taken and _close(one.samples, samples)]
        if placement.producers[name] in _CUT:  # where nothing is negative, what comes before has the same values
            same = [one for one in same if any(word in one.name for word in _ACTIVATIONS)] or same
        if same:
            found[name] = same[0].site
            taken.add(same[0].site)
    return found


def _by_weight(layers: Sequence[RoundedLayer]) -> list[list[RoundedLayer]]:
    """The layers in groups with one weight, each in graph order."""
    groups: dict[str, list[RoundedLayer]] = {}
    for layer in layers:
        groups.setdefault(layer.weight, []).append(layer)
    return list(groups.values())


def _owners(detector: Detector) -> list[tuple[nn.Parameter, nn.Module]]:
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    layers = [module for module in detector.modules() if isinstance(module, kinds)]
    return [(module.weight, module) for module in layers if isinstance(module.weight, nn.Parameter)]


_Owned = tuple[nn.Parameter, nn.Module, int, bool]
"""A parameter, its module, its axis of channels, and whether the graph has it transposed."""


def _owner(
    layers: Sequence[RoundedLayer], weights: Mapping[str, Array], owners: Sequence[tuple[nn.Parameter, nn.Module]], detector: Detector
) -> _Owned:
    layer = layers[0]
    wanted = weights[layer.weight]
    for parameter, module in owners:
        own = parameter.detach().cpu().numpy()
        if own.shape == wanted.shape and _close(own, wanted):
            return parameter, module, layer.axis, False
        if own.ndim == wanted.ndim == 2 and own.T.shape == wanted.shape and _close(own.T, wanted):
            return parameter, module, 1 - layer.axis, True
    raise not_rounded(detector, f"the layer {layer.name}")


def _weight(
    layers: Sequence[RoundedLayer],
    owned: _Owned,
    placement: RoundingTable,
    weights: Mapping[str, Array],
    folded: Mapping[nn.Module, nn.Module],
) -> RoundedWeight:
    """The weight of these layers, and what is added after it; both become the graph's."""
    (parameter, module, axis, turned), first = owned, layers[0]
    norm = folded.get(module)
    bias = getattr(module if norm is None else norm, "bias", None)
    own = bias if isinstance(bias, Tensor) else None
    _copy(parameter, weights[first.weight].T if turned else weights[first.weight])
    if own is not None and first.bias is not None:
        _copy(own, weights[first.bias])
    skipped = norm if isinstance(norm, nn.BatchNorm2d) else None  # a frozen one computes on its own
    added = own if norm is None or skipped is not None else None
    return RoundedWeight(parameter, axis, added, skipped, first.rounds_bias, tuple(placement.steps.get(one.reads) for one in layers))


def refuse_unroundable(detector: Detector) -> None:
    """Refuse, before any training, a detector that is known to compute something in torch that its graph computes differently.

    Raises:
        ConfigError: it does; the message says what.
    """
    if detector.kind == "set_prediction":
        raise not_rounded(detector, "attention")
    if any(isinstance(module, DeformableConvolution) for module in detector.modules()):
        raise not_rounded(detector, "a deformable convolution")


def not_rounded(detector: Detector, what: str) -> ConfigError:
    """Why a detector cannot be trained for int8: its graph computes this in a different way."""
    known = ", ".join(LAYERS)
    return ConfigError(
        f"int8.finetune: {what} of detector {detector.name}'s graph is not computed by its modules ({known}) in torch, so it cannot be "
        "trained for int8; set int8.finetune to false, or choose a different detector"
    )


def _copy(tensor: Tensor, values: Array) -> None:
    tensor.copy_(torch.from_numpy(np.array(values, np.float32)))


def _samples(values: NDArray[Any]) -> NDArray[np.float32]:
    flat = values.reshape(-1)
    return np.array(flat[:: max(1, flat.size // _SAMPLES)], np.float32)


def _close(own: NDArray[Any], wanted: NDArray[Any]) -> bool:
    most = float(np.abs(wanted).max(initial=0.0))
    return bool(np.abs(own - wanted).max(initial=0.0) <= _CLOSE * most)
