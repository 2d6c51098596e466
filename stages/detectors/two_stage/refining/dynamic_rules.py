"""Second stages that become stricter as proposals become better.

Zhang et al., "Dynamic R-CNN: Towards High Quality Object Detection via Dynamic Training", ECCV 2020, https://arxiv.org/abs/2004.06002,
with the constants of its authors' final models, as in mmdet: the objects' own boxes count among an image's candidates, and until the first
update regions learn an object from an IoU of 0.5 on. Departures: statistics are means over all processes, not each process's own; with
`accumulate`, each part of a batch counts as one; an image without candidates is left out. What has been observed is part of the state
dict, so a training that was stopped continues as if it had not been.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.detectors.two_stage.refining.losses import RefinementStage, RegionRules
from stages.detectors.two_stage.refining.proposal_network import ProposalRecipe
from stages.processes import mean_over_processes

PROPOSALS = ProposalRecipe(count=1000, iou_threshold=0.85, beta=0.0, within=False)
STAGE = RefinementStage(0.5, (0.1, 0.1, 0.2, 0.2))
_BATCHES = 100
"""Number of batches between two updates."""
_RANK_OF_OVERLAP, _RANK_OF_ERROR = 75, 10
"""Which of an image's overlaps from above, and of its errors from below, is observed."""
_LOWEST_OVERLAP, _HIGHEST_BETA, _NO_ERROR = 0.4, 1.0, 1e-15


class DynamicRules(RegionRules):
    """See `RegionRules`; both numbers follow what the last batches showed."""

    current_overlap: Tensor
    current_beta: Tensor
    overlaps: Tensor
    errors: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__((STAGE,))
        self.register_buffer("current_overlap", torch.tensor(STAGE.overlap))
        self.register_buffer("current_beta", torch.tensor(_HIGHEST_BETA))
        self.register_buffer("overlaps", torch.zeros(_BATCHES))
        self.register_buffer("errors", torch.zeros(_BATCHES))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))  # of overlaps and of errors since the last update

    def overlap(self, index: int) -> Tensor:
        """See RegionRules.overlap."""
        return self.current_overlap

    def beta(self) -> Tensor:
        """See RegionRules.beta."""
        return self.current_beta.clone()  # the loss's gradient still needs it when the original is changed

    @torch.no_grad()
    def observe(self, overlaps: Sequence[Tensor], deltas: Tensor) -> None:
        """See RegionRules.observe; every hundredth batch changes both numbers."""
        found = [one.topk(min(_RANK_OF_OVERLAP, len(one))).values[-1] for one in overlaps if len(one)]
        sizes = deltas[:, :2].abs().mean(dim=1)
        rank = min(_RANK_OF_ERROR * len(overlaps), len(sizes))
        self._note(0, self.overlaps, torch.stack(found).mean() if found else None)
        self._note(1, self.errors, sizes.kthvalue(rank).values if rank else None)
        if self.counts[0] == _BATCHES:
            self._update()

    def _note(self, kind: int, history: Tensor, value: Tensor | None) -> None:
        """Append the mean of the values that processes have, if any has one."""
        pair = history.new_tensor([0.0, 0.0]) if value is None else torch.stack((value.float(), torch.ones_like(value.float())))
        total, share = mean_over_processes(pair)
        if share > 0:
            history[self.counts[kind]] = total / share
            self.counts[kind] += 1

    def _update(self) -> None:
        self.current_overlap.copy_(self.overlaps.mean().clamp(min=_LOWEST_OVERLAP))
        if self.counts[1]:
            middle = self.errors[: int(self.counts[1])].quantile(0.5)
            if middle >= _NO_ERROR:
                self.current_beta.copy_(middle.clamp(max=_HIGHEST_BETA))
        self.counts.zero_()
