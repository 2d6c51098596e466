"""Detectors with proposals and one or several second stages that refine them, in the form that training and distillation use."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from stages.detectors import Decoded, Detector, Graph, GraphOptions, HeadShape, Outputs, Regions, Target
from stages.detectors.boxes.coding import clip, decode
from stages.detectors.two_stage.adaptive_roi_align import pool
from stages.detectors.two_stage.losses import rows
from stages.detectors.two_stage.refining.graph import RefinementGraph
from stages.detectors.two_stage.refining.heads import BOX_SIZE, MASK_SIZE
from stages.detectors.two_stage.refining.losses import box_losses, learned, mask_losses, sample_regions
from stages.detectors.two_stage.refining.model import ProposingModel, RefinementModel
from stages.detectors.two_stage.refining.proposal_network import RATIOS, ProposalRows


class ProposingDetector(Detector):
    """What detectors with a ProposalNetwork share.

    Args:
        batch_size: maximum number of regions per image that train each second stage.
        rpn_candidates: number of regions per level that the deployed graph considers before suppression.
    """

    kind = "two_stage"
    gives = ("pyramid", "decoded", "regions", "teacher_head")
    model: ProposingModel

    def __init__(self, model: ProposingModel, batch_size: int, rpn_candidates: int) -> None:
        super().__init__()
        self.model = model
        self.batch_size = batch_size
        self.rpn_candidates = rpn_candidates
        self.strides = model.pyramid.strides
        self.channels = (model.backbone.out_channels,) * len(self.strides)
        self.head_shape = HeadShape((len(RATIOS),) * len(self.strides))

    @abstractmethod
    def region_losses(
        self, levels: list[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The losses of every second stage."""

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """See Detector.forward; proposals are best first. The second stages run only for the losses.

        Raises:
            DataError: a detector with masks is given objects without masks.
        """
        size = images.shape[-2], images.shape[-1]
        levels = self.model.levels(images)
        network = self.model.rpn_head
        found = network.rows(levels)
        losses: dict[str, Tensor] = {}
        with torch.autocast(images.device.type, enabled=False):
            proposals = network.proposals(found, size)
            if targets is not None:
                losses = network.losses(found, targets, size)
        if targets is not None:
            losses |= self.region_losses(self.model.pooled(levels), proposals, targets, size)
        return Outputs(levels, self.strides, _head(found), losses, proposals, size, self)

    def decoded(self, outputs: Outputs) -> Decoded:
        """See Detector.decoded; the boxes are those that proposals are chosen from."""
        anchors = self.model.rpn_head.anchors(outputs.pyramid)
        deltas = outputs.head["box_deltas"]
        return Decoded(tuple(decode(*pair, limit_shrinking=True) for pair in zip(deltas, anchors, strict=True)), anchors)

    def head_on(self, pyramid: Sequence[Tensor], size: tuple[int, int]) -> Outputs:
        """See Detector.head_on: the proposal network at once, the second stages if asked for regions; no proposals."""
        found = self.model.rpn_head.rows(pyramid)
        return Outputs(tuple(pyramid), self.strides, _head(found), size=size, network=self)


class RefinementDetector(ProposingDetector):
    """A model of `stages.detectors.two_stage.refining.model`; see ProposingDetector."""

    model: RefinementModel

    def __init__(self, model: RefinementModel, batch_size: int, rpn_candidates: int) -> None:
        super().__init__(model, batch_size, rpn_candidates)
        self.mask_frame = "box" if len(model.roi_head.mask_head) else None

    def region_losses(
        self, levels: list[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """See ProposingDetector.region_losses."""
        heads, rules, strides = self.model.roi_head, self.model.rules, self.model.pooled_strides
        masks = [row["masks"] for row in rows(targets, size, masks=True)] if self.mask_frame else None
        losses: dict[str, Tensor] = {}
        for index, stage in enumerate(rules.stages):
            overlap = rules.overlap(index)
            chosen = [sample_regions(*pair, overlap, self.batch_size) for pair in zip(proposals, targets, strict=True)]
            outputs = heads.bbox_head[index](pool(levels, strides, [one.boxes for one in chosen], BOX_SIZE))
            logits, deltas = (output.float() for output in outputs)
            wanted = learned(chosen, targets, logits.shape[1] - 1, stage.coding)
            found = box_losses(logits, deltas, wanted, rules.beta())
            if masks is not None:
                given = [one.boxes[: len(one.objects)] for one in chosen]
                shapes = heads.mask_head[index](pool(levels, strides, given, MASK_SIZE)).float()
                found |= mask_losses(shapes, wanted, chosen, masks)
            suffix = f"_{index + 1}" if len(rules.stages) > 1 else ""
            losses |= {f"{name}{suffix}": loss * stage.weight for name, loss in found.items()}
            if self.training:
                rules.observe([one.overlaps for one in chosen], wanted.deltas)
            if index + 1 < len(rules.stages):
                counts = [len(one.boxes) for one in chosen]
                moved = self._refined([one.boxes for one in chosen], deltas, index, size).split(counts)
                proposals = [boxes[~one.own] for boxes, one in zip(moved, chosen, strict=True)]
        return losses

    @torch.no_grad()
    def _refined(self, boxes: Sequence[Tensor], deltas: Tensor, index: int, size: tuple[int, int]) -> Tensor:
        """All images' boxes [N, 4], moved by a stage's deltas [N, 4], within the image."""
        return clip(decode(deltas, torch.cat(list(boxes)), self.model.rules.stages[index].coding, limit_shrinking=True), *size)

    def regions(self, outputs: Outputs, boxes: Sequence[Tensor], *, masks: bool) -> Regions:
        """See Detector.regions: every second stage's classes count alike; gradient does not flow through boxes from stage to stage."""
        heads, stages, strides = self.model.roi_head, self.model.rules.stages, self.model.pooled_strides
        levels = self.model.pooled(outputs.pyramid)
        given, counts, all_logits = list(boxes), [len(one) for one in boxes], []
        for index, stage in enumerate(stages):
            logits, deltas = (output.float() for output in heads.bbox_head[index](pool(levels, strides, given, BOX_SIZE)))
            all_logits.append(logits)
            found = decode(deltas.reshape(len(deltas), -1, 4), torch.cat(given)[:, None], stage.coding, limit_shrinking=True)
            if index + 1 < len(stages):
                given = list(self._refined(given, deltas, index, outputs.size).split(counts))
        mean = torch.stack(all_logits).mean(dim=0)
        shapes = self._shapes(levels, boxes) if masks and self.mask_frame else None
        return Regions(mean[:, :-1], mean[:, -1], found, shapes)

    def _shapes(self, levels: list[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Mask logits [N, K, 28, 28] of boxes: of the mean of all stages' probabilities."""
        pooled = pool(levels, self.model.pooled_strides, boxes, MASK_SIZE)
        likely = [head(pooled).float().sigmoid() for head in self.model.roi_head.mask_head]
        return torch.logit(torch.stack(likely).mean(dim=0), eps=1e-6)

    def walk(self, images: Tensor, options: GraphOptions) -> None:
        """See Detector.walk: the second stages too, on as many regions as the graph considers."""
        self(images)
        heads = self.model.roi_head
        for head in heads.bbox_head:
            head(images.new_zeros(options.proposals, self.channels[0], BOX_SIZE, BOX_SIZE))
        for head in heads.mask_head:
            head(images.new_zeros(options.max_detections, self.channels[0], MASK_SIZE, MASK_SIZE))

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return RefinementGraph(self.model, options, self.rpn_candidates)


def _head(found: ProposalRows) -> dict[str, tuple[Tensor, ...]]:
    return {"objectness": found.logits, "box_deltas": found.deltas}
