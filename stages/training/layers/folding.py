"""Batch normalization of a network that no longer learns, folded into the convolutions before it: the same outputs, sooner."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from stages.detectors import Detector

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)
_CLOSE = 1e-2
"""Of the largest output; rounding, of TensorFloat-32 too, remains below."""


def fold_norms(detector: Detector, images: Tensor) -> int:
    """Fold each normalization into the convolution that it follows, which shows when the network runs.

    Its outputs remain the same but for rounding. If they do not, because a convolution has other readers too, all is left as it was.

    Args:
        detector: in eval mode, without gradients; changed in place.
        images: [B, 3, H, W], on its device.

    Returns:
        the number of normalizations that are gone.
    """
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        before: list[Tensor] = []
        found = followed(detector, lambda: before.extend(_tensors(detector, images)))
        pairs: dict[Any, Any] = {norm: conv for norm, conv in found.items() if _plain(norm, conv)}
        weights = {conv: (conv.weight, conv.bias) for conv in pairs.values()}
        places = {name: one for name, one in detector.named_modules(remove_duplicate=False) if one in pairs}
        for norm, conv in pairs.items():
            given = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *given)
        for name in places:
            detector.set_submodule(name, nn.Identity())
        after = _tensors(detector, images)
    if all((one - other).abs().max() <= _CLOSE * other.abs().max() for one, other in zip(after, before, strict=True)):
        return len(pairs)
    for conv, (weight, bias) in weights.items():
        conv.weight, conv.bias = weight, bias
    for name, norm in places.items():
        detector.set_submodule(name, norm)
    return 0


def _plain(norm: Any, conv: nn.Module) -> bool:
    """Whether they are nothing else: a class derived from one may compute something more, as timm's do."""
    return type(norm) in _NORMS and type(conv) is nn.Conv2d and norm.running_mean is not None


def followed(network: nn.Module, run: Callable[[], object]) -> dict[Any, nn.Module]:
    """The convolution that each batch normalization follows at every call, if all that it makes goes there and to no other one.

    Args:
        run: computes the network once, in eval mode.
    """
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor too: another one's id would be the same after its end
    calls, reads = Counter[nn.Module | None](), defaultdict[nn.Module, list[nn.Module | None]](list)

    def convolved(conv: nn.Module, _: object, output: Tensor) -> None:
        calls[conv] += 1
        made[id(output)] = conv, output

    def normalizes(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        reads[norm].append(made.get(id(given[0]), (None,))[0])

    hooks = [one.register_forward_hook(convolved) for one in network.modules() if isinstance(one, _CONVOLUTIONS)]
    hooks += [one.register_forward_pre_hook(normalizes) for one in network.modules() if isinstance(one, _NORMS)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    read = Counter(conv for own in reads.values() for conv in own)
    found = {norm: own[0] for norm, own in reads.items() if len({*own}) == 1 and calls[own[0]] == read[own[0]] == len(own)}
    return {norm: conv for norm, conv in found.items() if conv is not None}


def _tensors(detector: Detector, images: Tensor) -> list[Tensor]:
    outputs = detector(images)
    return [*outputs.pyramid, *(level for levels in outputs.head.values() for level in levels)]
