"""Fine-grained feature imitation: the teacher's features near objects, where anchors overlap them.

Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation", CVPR 2019, https://arxiv.org/abs/1906.03609. For
students that predict boxes from anchors or from the square around a point: dense and two-stage detectors.

Constants: weight 0.01; positions count whose anchors overlap an object by more than half as much as the best anchor does
(twangnh/Distilling-Object-Detectors, trainval_net_sup.py and lib/model/rpn/anchor_target_layer.py).

The adapter is a 3x3 convolution with ReLU, as there. Departures: one term per level of a pyramid, where only objects of that level
count, see `levels_of`: with all objects on all levels, users of the authors' code ended below the baseline, and the authors advise
against it (#17, #18). The authors' code starts imitating after 400 steps; here distill.warmup_steps raises the weight. If no object
belongs to a level, its term is 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from deploy.errors import ConfigError
from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.level_loss import LevelLoss, Pairing, pairing
from stages.losses.features.object_masks import CHUNK, by_level
from stages.losses.features.options import Missing, Strides
from stages.processes import shared_count

READS = ("pyramid", "decoded", "targets")
INVARIANT_TO = ("batch",)
_NEAR = 0.5
"""Share of the best anchor's overlap above which an anchor counts."""


class FineGrained(LevelLoss):
    """See `build`."""

    def __init__(self, paired: Pairing) -> None:
        adapters = (nn.Sequential(nn.Conv2d(own, other, 3, padding=1), nn.ReLU()) for own, other in paired.widths)
        super().__init__(paired, nn.ModuleList(adapters))
        self.weights = {"feature": 0.01}

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term "feature" of each level: half the mean over the counted positions of the squared error, summed over channels."""
        with torch.no_grad():
            anchors = student.decoded().anchors
        assert anchors is not None
        learning = [pair.own for pair in self.paired.levels]
        objects = by_level([one.boxes for one in targets], learning)
        terms = {}
        for level, boxes, (stride, own, other) in zip(learning, objects, self.adapted(student, teacher), strict=True):
            near = torch.stack([_near(anchors[level], some, own[0, 0]) for some in boxes])
            error = ((own - other).square().sum(dim=1) * near).sum()
            terms[f"feature/{stride}"] = error / (2 * shared_count(near.sum()))
        return terms


@torch.no_grad()
def _near(anchors: Tensor, boxes: Tensor, level: Tensor) -> Tensor:
    """Positions [H, W] of which an anchor is near one of the boxes, as 0 or 1, from anchors [H * W * A, 4] of a level [H, W]."""
    found = anchors.new_zeros(len(anchors), dtype=torch.bool)
    for some in boxes.split(CHUNK) if len(boxes) else ():
        overlaps = box_iou(anchors, some)
        found |= (overlaps > _NEAR * overlaps.amax(dim=0)).any(dim=1)
    return found.reshape(*level.shape, -1).any(dim=2).to(level.dtype)


def build(student: NetworkSide, teacher: NetworkSide, *, strides: Strides = None, missing: Missing = "skip") -> Loss:
    """The squared error between features at the positions whose anchors overlap an object.

    Raises:
        ConfigError: the student has no anchors.
    """
    if student.kind == "set_prediction":
        lacking = f"the student, {student.detector}, has no anchors that could overlap objects"
        raise ConfigError(f"distill.losses: fine_grained: {lacking}; choose a different loss or student")
    return FineGrained(pairing(student, teacher, strides, missing))
