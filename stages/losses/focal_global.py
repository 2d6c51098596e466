"""Focal and global distillation: objects apart from the background, weighted by the teacher's attention, and the image as a whole.

Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022, https://arxiv.org/abs/2111.11837. For all detectors.

Constants: weights of objects, background, attention and relation 1e-3, 5e-4, 5e-4, 5e-6, temperature 0.5; for FCOS 1.6e-3, 8e-4, 8e-4,
8e-6 and 0.8; for RepPoints the same and 0.5; for YOLOX 2e-3, 1e-3, 1e-3, 1e-5 and 0.5; for two-stage students 5e-5, 2.5e-5, 5e-5, 5e-7
and 0.5 (yzd-v/FGD, configs/distillers/fgd).

Students by set prediction have RetinaNet's, the first ones, as in BIVLab-USTC/DETRDistill (cfg_distill). Errors are summed over
positions and channels and divided by the number of images only (mmdet/distillation/losses/fgd.py), so the weights hold for images of
about 800 x 1333 px and 256 channels.

Departures: an object's cells are rows by its y and columns by its x, which one version of the authors' code exchanges; every level
that both pyramids have learns, whereas their two-stage configurations leave the fifth out (`strides` chooses).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.attention_maps import channel_attention, mask, spatial_attention
from stages.losses.features.global_context import GlobalContext
from stages.losses.features.level_loss import LevelLoss, Pairing, aligners, pairing
from stages.losses.features.object_masks import in_cells, inverse_areas
from stages.losses.features.options import Missing, Strides

READS = ("pyramid", "targets")
INVARIANT_TO = ("batch",)


@dataclass(frozen=True)
class FocalWeights:
    """The terms' weights, alpha, beta, gamma and lambda in the paper, and the temperature of both attentions."""

    foreground: float
    background: float
    attention: float
    relation: float
    temperature: float = 0.5


CONSTANTS: Mapping[str, FocalWeights] = {
    "two_stage": FocalWeights(5e-5, 2.5e-5, 5e-5, 5e-7),
    "fcos": FocalWeights(1.6e-3, 8e-4, 8e-4, 8e-6, temperature=0.8),
    "reppoints": FocalWeights(1.6e-3, 8e-4, 8e-4, 8e-6),
    "yolox": FocalWeights(2e-3, 1e-3, 1e-3, 1e-5),
    "others": FocalWeights(1e-3, 5e-4, 5e-4, 5e-6),
}


class FocalGlobal(LevelLoss):
    """See `build`."""

    def __init__(self, paired: Pairing, form: FocalWeights) -> None:
        super().__init__(paired, aligners(paired.widths))
        self.temperature = form.temperature
        named = {"foreground": form.foreground, "background": form.background, "attention": form.attention, "relation": form.relation}
        self.weights = {name: weight for name, weight in named.items() if weight}
        related = [other for _, other in paired.widths if form.relation]
        self.own = nn.ModuleList(GlobalContext(channels) for channels in related)
        self.other = nn.ModuleList(GlobalContext(channels) for channels in related)

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms "foreground", "background", "attention" and "relation" of each level, if they have a weight."""
        terms: dict[str, Tensor] = {}
        for index, (stride, own, other) in enumerate(self.adapted(student, teacher)):
            boxes = [in_cells(one.boxes, student.size, (own.shape[2], own.shape[3])) for one in targets]
            level = self._focal(own, other, boxes)
            if "relation" in self.weights:
                added = self.own[index](own) - self.other[index](other)
                level["relation"] = (own - other + added[:, :, None, None]).square().sum()
            terms |= {f"{name}/{stride}": value / len(own) for name, value in level.items() if name in self.weights}
        return terms

    def _focal(self, own: Tensor, other: Tensor, boxes: Sequence[Tensor]) -> dict[str, Tensor]:
        """The terms but for "relation", summed over images; boxes are in cells."""
        maps, channels = ([mask(part(side), self.temperature) for side in (own, other)] for part in (spatial_attention, channel_attention))
        terms = {"attention": (maps[0] - maps[1]).abs().sum() + (channels[0] - channels[1]).abs().sum()}
        if self.weights.keys() & {"foreground", "background"}:
            error = ((own - other).square() * channels[1]).sum(dim=1) * maps[1][:, 0]
            objects = torch.stack([inverse_areas(some, (own.shape[2], own.shape[3])) for some in boxes])
            outside = (objects == 0).to(own.dtype)
            background = outside / outside.sum(dim=(1, 2), keepdim=True).clamp(min=1)
            terms |= {"foreground": (error * objects).sum(), "background": (error * background).sum()}
        return terms


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    temperature: Annotated[float, Field(gt=0)] | None = None,
    foreground_weight: Annotated[float, Field(ge=0)] | None = None,
    background_weight: Annotated[float, Field(ge=0)] | None = None,
    attention_weight: Annotated[float, Field(ge=0)] | None = None,
    relation_weight: Annotated[float, Field(ge=0)] | None = None,
    strides: Strides = None,
    missing: Missing = "skip",
) -> Loss:
    """Errors of objects and background under the teacher's attention, errors of attention, and relations; null: published values.

    Args:
        temperature: temperature of both networks' attention; values below 1 sharpen it.
        foreground_weight: weight of the error inside objects; each position counts by the inverse area of its smallest object.
        background_weight: weight of the mean error outside objects.
        attention_weight: weight of the error between attention over positions and over channels.
        relation_weight: weight of the error after adding each network's global context.
    """
    form = CONSTANTS.get(student.kind) or CONSTANTS.get(student.detector) or CONSTANTS["others"]
    chosen = {
        "temperature": temperature,
        "foreground": foreground_weight,
        "background": background_weight,
        "attention": attention_weight,
        "relation": relation_weight,
    }
    form = replace(form, **{name: value for name, value in chosen.items() if value is not None})
    return FocalGlobal(pairing(student, teacher, strides, missing), form)
