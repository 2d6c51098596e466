"""The published and the normalised forms of structured distillation.

Zhang & Ma, "Structured Knowledge Distillation for Accurate and Efficient Object Detection", IEEE TPAMI 2023,
https://doi.org/10.1109/TPAMI.2023.3300470; first in ICLR 2021, https://openreview.net/forum?id=uKhGRvM8QNH.

Sources of the constants: `code_*` comes from copies of the authors' supplementary code; `code_two_stage` on the four finest levels is
OpenMMLab's re-implementation (mmrazor, configs/distill/mmdet/fbkd). `paper_*` has the copies' constants with the changes that later
publications report of the paper's text: attentions summed before the softmax, absolute values without adapters, both masks, and the
temperatures of the two families exchanged; these are partly recollections. All four measure errors by the Euclidean norm over a
process's whole batch, so their weights hold for two images of 800 x 1333 px per process and pyramids of 256 channels.

`normalised` is our own: the same terms per image and per level, on features whose channels are each normalized to mean 0 and standard
deviation 1 over the image's positions (or, by option, over those of the whole batch), as means of squares, so one weight suits every
batch size, resolution and number of channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from deploy.errors import ConfigError
from stages.losses.features.options import PresetName, Statistics


@dataclass(frozen=True)
class Preset:
    """How both parts are computed.

    error: the mean of squares over levels, or the Euclidean norm over the whole batch, summed over levels.
    masks: one softmax of both networks' summed attention, or the mean of one softmax per network.
    channel_mask: whether channels are weighted in addition to positions.
    compared: what the attention transfer compares, magnitudes or signed means behind an adapter.
    temperature: temperature of the masks. feature, transfer, relation: the terms' weights.
    pools, reductions: of the relation modules, one per level, finest first; the last applies to all further levels.
    batch_norm: whether the relation modules end in a batch norm whose scale starts at 0.
    statistics: what features are standardized over if squares are averaged, each image or the batch.
    """

    error: Literal["mean_square", "norm"] = "norm"
    masks: Literal["summed", "averaged"] = "averaged"
    channel_mask: bool = True
    compared: Literal["magnitude", "adapted_mean"] = "adapted_mean"
    temperature: float = 0.5
    feature: float = 7e-5
    transfer: float = 4e-3
    relation: float = 7e-5
    pools: tuple[int, ...] = (8, 4, 2)
    reductions: tuple[int, ...] = (4, 4, 2)
    batch_norm: bool = True
    statistics: Statistics = "image"


def chosen(name: PresetName, statistics: Statistics) -> Preset:
    """A preset with its statistics.

    Raises:
        ConfigError: they are the batch's, and the preset standardizes nothing.
    """
    form = PRESETS[name]
    if statistics == "batch" and form.error == "norm":
        raise ConfigError(f"statistics: batch requires preset normalised, which standardizes features; {name} does not")
    return replace(form, statistics=statistics)


PRESETS: Mapping[PresetName, Preset] = {
    "normalised": Preset(
        error="mean_square",
        masks="summed",
        compared="magnitude",
        feature=1.0,
        transfer=1.0,
        relation=1.0,
        pools=(4, 2, 2, 1),
        reductions=(2,),
        batch_norm=False,
    ),
    "code_one_stage": Preset(temperature=0.1, feature=4.2e-4, transfer=2.4e-2, relation=4.2e-4),
    "code_two_stage": Preset(channel_mask=False),
    "paper_one_stage": Preset(masks="summed", compared="magnitude", feature=4e-4, transfer=2e-2, relation=4e-4),
    "paper_two_stage": Preset(masks="summed", compared="magnitude", temperature=0.1),
}
