"""timm's networks as backbones, through timm's own feature extractors."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from deploy.errors import ArtifactError, first_line, in_one_line
from deploy.plugins import suggest
from stages.detectors.backbones.pretrained import SUFFIXES, NoWeights, Unread, load_backbone

PROBE_PX = 64
"""Side in px of the image that probes what a network returns."""


class _Levels(nn.Module):
    """timm's feature extractor, its maps keyed by their strides."""

    def __init__(self, net: nn.Module, strides: Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.strides = tuple(strides)

    def forward(self, images: Tensor) -> "dict[str, Tensor]":
        return {str(stride): level for stride, level in zip(self.strides, self.net(images), strict=True)}


def body(name: str, norm: str | None, weights: str | None, strides: Sequence[int]) -> tuple[nn.Module, dict[int, int], tuple[int, ...]]:
    """Like stages.detectors.backbones.catalog.body; `weights` is "pretrained" or a file with timm's tensor names.

    Raises:
        ValueError: timm is not installed, the network does not exist, or the options are incompatible.
        ArtifactError: weights that are not available or belong to a different network.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError(f'backbone timm:{name}: timm is not installed: pip install "edgedistill[timm]"') from error
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise ValueError(f"no backbone 'timm:{name}'{suggest(name, known)}; see timm.list_models()")
    if norm is not None:
        raise ValueError(f"norm {norm}: timm's backbones keep their own normalization; set norm to null")
    try:
        reductions = cast("Any", timm.create_model(name, features_only=True)).feature_info.reduction()
    except RuntimeError as error:  # an unknown tag
        raise ValueError(f"no backbone 'timm:{name}' ({first_line(error)}); see timm.list_pretrained()") from error
    has = {stride: index for index, stride in enumerate(reductions)}
    chosen = {stride: has[stride] for stride in strides if stride in has}
    if not chosen:
        return nn.Identity(), {}, tuple(has)
    net = _create(name, None if isinstance(weights, Unread) else weights, list(chosen.values()))
    channels = dict(zip(chosen, net.feature_info.channels(), strict=True))
    _check(net, name, channels)
    return _Levels(net, list(chosen)), channels, tuple(has)


def _create(name: str, weights: str | None, indices: list[int]) -> Any:
    """timm's feature extractor with the levels at these indices.

    Raises:
        ValueError: no such weights.
        ArtifactError: the weights are not available.
    """
    import timm

    options: dict[str, Any] = {}
    if weights == "pretrained":
        options = {"pretrained": True}
    elif weights is not None:
        if not weights.endswith(SUFFIXES):
            raise ValueError(f"no backbone_weights '{weights}' of timm:{name}; use pretrained, or a file ({', '.join(SUFFIXES)})")
        whole = timm.create_model(name)
        # loaded into the classifier first: timm's extractors load what fits and silently leave the rest as it is
        load_backbone(whole, weights, NoWeights, tuple(f"{layer}." for layer in _classifiers(whole)))
        options = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": whole.state_dict()}}
    try:
        net: Any = timm.create_model(name, features_only=True, out_indices=indices, **options)
        if not _all_used(net):  # some keep layers after the last of these levels; this way they are cut off
            net = timm.create_model(name, features_only=True, out_indices=indices, feature_cls="getter", **options)
    except (OSError, RuntimeError) as error:
        reason = in_one_line(error)
        raise ArtifactError(
            f"backbone_weights {weights} of timm:{name} are not available ({reason}); go online, or set them to null"
        ) from error
    return net


@torch.enable_grad()
def _all_used(net: nn.Module) -> bool:
    """Whether every parameter contributes to the network's output; True if that cannot be determined."""
    net.eval()
    try:
        total = torch.stack([level.sum() for level in net(torch.zeros(1, 3, PROBE_PX, PROBE_PX))]).sum()
    except (AssertionError, RuntimeError):
        return True
    finally:
        net.train()
    gradients = torch.autograd.grad(total, list(net.parameters()), allow_unused=True)
    return all(gradient is not None for gradient in gradients)


def _check(net: nn.Module, name: str, channels: dict[int, int]) -> None:
    """Refuse a network that does not accept images of any size, or returns something other than maps."""
    net.eval()
    try:
        with torch.no_grad():
            shapes = [tuple(level.shape) for level in net(torch.zeros(1, 3, PROBE_PX, PROBE_PX))]
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"backbone timm:{name} does not accept images of {PROBE_PX} px ({in_one_line(error)})") from error
    net.train()
    if shapes != [(1, count, PROBE_PX // stride, PROBE_PX // stride) for stride, count in channels.items()]:
        raise ValueError(f"backbone timm:{name} does not return maps [B, C, H / stride, W / stride]; choose a convolutional network")


def _classifiers(model: Any) -> tuple[str, ...]:
    given = model.pretrained_cfg.get("classifier") or ()
    return (given,) if isinstance(given, str) else tuple(given)
