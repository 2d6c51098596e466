"""Labels by the averaged weights of the network that is being trained: they become better while it learns."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from deploy.contract import MaskFrame
from deploy.errors import ArtifactError, DataError
from deploy.prediction.masks import THRESHOLD, paste_box
from stages.artifacts import Dataset
from stages.config import ExportConfig, PseudoConfig
from stages.detectors import Detector, Graph, Target, TargetDoubt
from stages.measurement.splits import labeled_split, some
from stages.measurement.thresholds import choose
from stages.measurement.torch_accuracy import graph_options, judge_images
from stages.training.unlabeled.targets import Thresholds, thresholds_of
from stages.unlabeled_facts import PseudoClass

REFRESH = 0.1
"""Share of the training after which thresholds are chosen again: scores rise while a network learns."""
SOON = 0.01
"""The same after weights that hardly know anything have given an invalid answer, so that none could be chosen."""
MOST_IMAGES = 200
"""Of the judged split, evenly spread, on which thresholds are chosen."""
LEAST_SIDE_PX = 1.0
"""Of a box that teaches, as of one that was given: what is clipped to nothing at the border has no center that could be learned."""


class LiveLabels:
    """Finds objects with a network that somebody else trains; its thresholds are saved with the training.

    Raises:
        DataError: thresholds have to be chosen, and the split has no objects.
    """

    def __init__(self, dataset: Dataset, split: str, export: ExportConfig, rule: PseudoConfig) -> None:
        self._dataset, self._export, self._rule = dataset, export, rule
        self._images = some(labeled_split(dataset, split), MOST_IMAGES)
        if rule.threshold == "auto" and not self._images.truth["annotations"]:
            raise DataError(f"pseudo-labels: split {split} has no objects to choose thresholds on; label some, or set pseudo.threshold")
        self._network: Detector | None = None
        self._graph: Graph | None = None
        self._chosen: dict[str, PseudoClass] | None = None
        self._chosen_at = -1.0

    def follow(self, network: Detector) -> None:
        """Label with this network from now on."""
        self._network, self._graph = network, network.graph(graph_options(self._export))

    def thresholds(self, share: float) -> Thresholds | None:
        """Those at a share of the training, chosen anew if it is time to; None as long as the network answers nothing valid."""
        if share >= self._chosen_at + (SOON if self._chosen is None else REFRESH):
            self._choose()
            self._chosen_at = share
        return None if self._chosen is None else thresholds_of(self._chosen, self._dataset.facts.contract.classes)

    def find(self, images: Tensor) -> tuple[Target, ...]:
        """All detections in images [B, 3, H, W] of a pixel or more; where an answer is invalid, none, and doubt everywhere."""
        assert self._graph is not None, "nobody to label"
        assert self._network is not None
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            answer = self._graph.eval()(images.float())
        size, frame = (images.shape[-2], images.shape[-1]), self._network.mask_frame
        masks = [None] * len(images) if answer.masks is None or frame is None else answer.masks
        return tuple(
            _found(boxes, scores, labels, mask, size, frame) if bool(valid) else _nothing(images, frame)
            for boxes, scores, labels, mask, valid in zip(answer.boxes, answer.scores, answer.labels, masks, answer.converged, strict=True)
        )

    def state_dict(self) -> dict[str, Any]:
        """For accelerate."""
        chosen = None if self._chosen is None else {name: one.model_dump() for name, one in self._chosen.items()}
        return {"chosen": chosen, "at": self._chosen_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """For accelerate."""
        chosen = state["chosen"]
        self._chosen = None if chosen is None else {name: PseudoClass(**one) for name, one in chosen.items()}
        self._chosen_at = state["at"]

    def _choose(self) -> None:
        assert self._network is not None, "nobody to label"
        device = next(self._network.parameters()).device
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.autocast(device.type, enabled=False):
                judged = judge_images(self._network.eval(), self._dataset, self._images, self._export, "choose thresholds")
        except ArtifactError:  # weights that have hardly been trained may give invalid answers; the next choice is soon
            return
        self._chosen = choose(self._images.truth, judged.detections, self._rule)


def _found(boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor | None, size: tuple[int, int], frame: MaskFrame | None) -> Target:
    kept = (scores > 0) & (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE_PX).all(dim=1)
    target = Target(boxes[kept], labels[kept], scores=scores[kept])
    if masks is None or frame is None:
        return target
    drawn = drawn_masks(masks[kept], target.boxes, frame, size)
    seen = drawn.flatten(1).any(dim=1)
    return Target(target.boxes[seen], target.labels[seen], drawn[seen], scores[kept][seen])


def drawn_masks(masks: Tensor, boxes: Tensor, frame: MaskFrame, size: tuple[int, int]) -> Tensor:
    """Probabilities [N, h, w] in a frame as masks [N, H, W] bool over the network's input; boxes [N, 4] in px of it."""
    if frame == "image":
        return interpolate(masks[:, None].float(), size=size, mode="bilinear")[:, 0] >= THRESHOLD
    drawn = torch.zeros(len(masks), *size, dtype=torch.bool)
    for mask, given, box in zip(drawn, masks.float().cpu().numpy(), boxes.cpu().numpy(), strict=True):
        window = paste_box(given, box, size)
        down, across = window.inside.shape
        mask[window.top : window.top + down, window.left : window.left + across] = torch.from_numpy(window.inside)
    return drawn.to(masks.device)


def _nothing(images: Tensor, frame: MaskFrame | None) -> Target:
    height, width = images.shape[-2:]
    everywhere = images.new_tensor([[0.0, 0.0, float(width), float(height)]])
    labels = images.new_zeros(0, dtype=torch.int64)
    masks = None if frame is None else images.new_zeros(0, height, width, dtype=torch.bool)
    return Target(images.new_zeros(0, 4), labels, masks, images.new_zeros(0), TargetDoubt(labels.bool(), everywhere))
