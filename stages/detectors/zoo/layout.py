"""From MMDetection's names of tensors to ours, and what of a file is checked before its weights are used.

Files of versions 2 and 3 are read. Version 1 put the background first and counted a box one px wider; the caffe style of a backbone has
images in BGR without a common scale, and strides in other layers: both are refused, as the numbers would fit and mean something else.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from deploy.errors import ArtifactError
from stages.detectors.zoo.settings import ZooSetting, at, misfit, model_of

FROZEN = "num_batches_tracked"
"""End of the names of counters that a network with fixed normalization may lack."""

_DROPPED = re.compile(r"^(ema_|data_preprocessor\.|teacher\.)|\.integral\.project$|^bbox_head\.anchors$")
"""What files hold next to the network: raw averages, constants."""

RESNETS = (
    ZooSetting("backbone.type", ("ResNet", "ResNeXt"), remedy="use weights of a ResNet or ResNeXt"),
    ZooSetting("backbone.style", ("pytorch",), remedy="use weights of the pytorch style, without `caffe` in their name"),
    ZooSetting("data_preprocessor.bgr_to_rgb", (True,), remedy="use weights that were trained on RGB"),
    ZooSetting("data_preprocessor.mean", ([123.675, 116.28, 103.53],)),
    ZooSetting("data_preprocessor.std", ([58.395, 57.12, 57.375],)),
)
"""What holds of all detectors on ResNets and ResNeXts in the pytorch style."""

IMAGENET: Mapping[str, object] = {"color": "rgb", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Their keys of `data.preprocessing`."""


@dataclass(frozen=True)
class ZooLayout:
    """How MMDetection writes a detector down.

    kinds: its names for it.
    names: regular expressions that match names from their beginning and what stands in place of the match; the first that fits counts, and
        goes before the common names of ResNets and feature pyramids.
    settings: what the network is built for, checked against the configuration in the file, if it holds one.
    own: beginnings of the names of tensors that only we have.
    constant: what its backbone is built for, and pixels: the keys of `data.preprocessing` that it is trained with.
    """

    kinds: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    settings: tuple[ZooSetting, ...] = ()
    own: tuple[str, ...] = ()
    constant: tuple[ZooSetting, ...] = RESNETS
    pixels: Mapping[str, object] = field(default_factory=lambda: IMAGENET)


@dataclass(frozen=True)
class ZooFile:
    """What of a file is used: its tensors under MMDetection's names, without those that no network needs, and what it says of itself.

    classes: their names in order; None if it does not say. model: its configuration, empty if it holds none. version: None likewise.
    """

    name: str
    state: Mapping[str, Tensor]
    classes: tuple[str, ...] | None
    model: Mapping[str, Any]
    version: str | None

    @property
    def backbone(self) -> str:
        """What the backbone is called here, by its tensors: of which depth and width."""
        stem = self.state.get("backbone.stem.conv.conv.weight")
        if stem is not None:
            return f"a CSPDarknet of width {len(stem) / 64:g}"
        depth = sum(bool(re.fullmatch(r"backbone\.layer3\.\d+\.conv1\.weight", name)) for name in self.state)
        middle = self.state.get("backbone.layer1.0.conv2.weight")
        if middle is None:
            return "another backbone"
        bottleneck = "backbone.layer1.0.conv3.weight" in self.state
        sizes = {(True, 6): 50, (True, 23): 101, (True, 36): 152, (False, 2): 18, (False, 6): 34}
        size = sizes.get((bottleneck, depth), "?")
        groups = middle.shape[0] // middle.shape[1]
        return f"resnet{size}" if groups == 1 else f"resnext{size}_{groups}x{middle.shape[0] // groups}d"


def zoo_file(name: str, content: Any) -> ZooFile | None:
    """The content of a file, if MMDetection's names are in it; `name` is the file's."""
    if not isinstance(content, dict):
        return None
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        return None
    tensors = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    if not any(key.startswith(("backbone.conv1.", "backbone.layer1.", "backbone.stem.", "neck.")) for key in tensors):
        return None
    given = content.get("meta")
    meta: dict[Any, Any] = given if isinstance(given, dict) else {}
    kept = {key: value for key, value in tensors.items() if not _DROPPED.search(key)}
    text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), "")
    version = meta.get("mmdet_version")
    return ZooFile(name, kept, _classes(meta), model_of(text), version if isinstance(version, str) else None)


def _classes(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    data = meta.get("dataset_meta")
    places = (data if isinstance(data, dict) else {}, meta)
    found = next((place[key] for place in places for key in ("classes", "CLASSES") if key in place), None)
    if isinstance(found, str):
        return (found,)
    return tuple(found) if isinstance(found, list | tuple) and found and all(isinstance(one, str) for one in found) else None


def translated(file: ZooFile, layout: ZooLayout, what: str) -> dict[str, Tensor]:
    """The tensors under our names; `what` begins the line of an error.

    Raises:
        ArtifactError: the file is of an unknown version, of the caffe style, or its configuration does not fit the network's.
    """
    _check_version(file, what)
    _check_settings(file, layout, what)
    _check_style(file, layout, what)
    inputs = sum(bool(re.fullmatch(r"neck\.lateral_convs\.\d+\.conv\.weight", name)) for name in file.state)
    bare = not any(re.match(r"neck\.fpn_convs\.\d+\.(gn|bn)\.", name) for name in file.state)
    return {_ours(name, layout, inputs, bare=bare): tensor for name, tensor in file.state.items()}


def _check_version(file: ZooFile, what: str) -> None:
    names = file.state
    old_layout = any(name.startswith("rpn_head.") for name in names) and not any(name.startswith("roi_head.") for name in names)
    # Files that MMDetection's tool has brought up to version 2 keep the version that trained them; the configuration tells.
    new_form = any(at(file.model, path) is not None for path in ("roi_head", "bbox_head.anchor_generator", "bbox_head.bbox_coder"))
    old_version = file.version is not None and re.match(r"[01]\.", file.version) is not None and not new_form
    if old_layout or (old_version and not any(name.startswith("roi_head.") for name in names)):
        version = file.version or "1"
        raise ArtifactError(f"{what}: written by MMDetection {version}, whose boxes and classes mean something else; use a file of 2 or 3")


def _check_settings(file: ZooFile, layout: ZooLayout, what: str) -> None:
    kind = at(file.model, "type")
    if isinstance(kind, str) and kind not in layout.kinds:
        fits = " or ".join(layout.kinds)
        raise ArtifactError(f"{what}: MMDetection's network {kind}, while this detector takes {fits}; choose the detector that it is for")
    for setting in (*layout.constant, *layout.settings) if file.model else ():
        given = misfit(file.model, setting)
        if given is not None:
            fits = " or ".join(map(str, setting.allowed))
            raise ArtifactError(f"{what}: trained with model.{setting.path} {given}, while this network needs {fits}; {setting.remedy}")


def _check_style(file: ZooFile, layout: ZooLayout, what: str) -> None:
    """Without a configuration the file's name tells, or the backbone: the caffe style's normalization has no statistics of its own."""
    has_styles = any(setting.path == "backbone.style" for setting in layout.constant)
    if not has_styles or at(file.model, "backbone.style") is not None:
        return
    means = [tensor for name, tensor in file.state.items() if name.startswith("backbone.") and name.endswith("running_mean")]
    empty = bool(means) and all(not mean.any() for mean in means)
    if "caffe" in Path(file.name).name or empty:
        told = "its means are all 0" if empty else "its name says so"
        remedy = "use weights of the pytorch style, without `caffe` in their name"
        raise ArtifactError(f"{what}: a backbone of the caffe style ({told}), while this network needs pytorch; {remedy}")


def _ours(name: str, layout: ZooLayout, inputs: int, *, bare: bool) -> str:
    """Our name of a tensor.

    Args:
        inputs: number of the backbone's maps that the pyramid takes.
        bare: whether its convolutions are not followed by normalization.
    """
    own = next((re.sub(f"^{pattern}", new, name) for pattern, new in layout.names if re.match(pattern, name)), None)
    if own is not None:
        return own
    if name.startswith("backbone."):
        return name.replace("backbone.", "backbone.body.", 1).replace(".conv2_offset.", ".conv2.conv_offset.")
    found = re.match(r"neck\.(lateral|fpn)_convs\.(\d+)\.(conv|gn|bn)\.(.*)", name)
    if found is None:
        return name
    kind, index, layer, rest = found[1], int(found[2]), 0 if found[3] == "conv" else 1, found[4]
    if kind == "fpn" and index >= inputs:
        return f"backbone.fpn.extra_blocks.p{index - inputs + 6}.{rest if bare else f'{layer}.{rest}'}"
    block = "inner_blocks" if kind == "lateral" else "layer_blocks"
    return f"backbone.fpn.{block}.{index}.{layer}.{rest}"
