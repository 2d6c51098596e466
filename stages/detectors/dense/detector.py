"""What one-stage detectors with a pyramid share: torchvision's models, or ours, as detectors, and their deployed graph."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, NoReturn

import torch
from torch import Tensor
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet

from deploy.contract import BoxCode, HostDecoding
from stages.detectors import Decoded, Detector, Graph, GraphOptions, GraphOutput, HeadShape, Outputs, Reading, Target, Towers
from stages.detectors.boxes.coding import clip
from stages.detectors.boxes.host import HostDecodable, head_levels
from stages.detectors.boxes.nms import best, select
from stages.detectors.dense.doubt import heeded, is_doubtful, row_of
from stages.detectors.dense.model import OneStageModel
from stages.detectors.dense.towers import multiplies, rest_of_head, run, tower_steps

CLASS_LAYERS = ("head.classification_head.cls_logits.",)
"""Prefixes of the names of tensors that grow with the number of classes."""

HEAD_NAMES = {
    "cls_logits": "class_logits",
    "bbox_regression": "box_deltas",
    "bbox_distribution": "box_distributions",
    "bbox_ctrness": "quality",
    "objectness": "quality",
}
"""The names in Outputs.head of what one-stage heads return."""

_CODES = ("bbox_regression", "bbox_distribution")
"""What boxes are decoded from: a head returns one of them."""

_DECIDING = ("max_detections", "candidates", "score_threshold", "iou_threshold", "agnostic")

_NARROW_FROM = 4
"""Levels with at least this many times the candidates are narrowed down to positions first; smaller ones are quicker in one step."""


class DenseDetector(Detector):
    """A model with a pyramid, a head of convolutions shared by its levels, and anchors at every position.

    Its head returns "cls_logits" [B, N, K], and "bbox_regression" [B, N, 4] or "bbox_distribution" [B, N, 4, bins]; it may return
    "bbox_ctrness" or "objectness" [B, N, 1].
    """

    gives: tuple[Reading, ...] = ("pyramid", "head", "decoded", "teacher_head")
    heeds_doubt = True

    def __init__(self, model: FCOS | RetinaNet | OneStageModel, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.model = model
        self.strides = strides
        width = model.backbone.out_channels
        assert isinstance(width, int)
        self.channels = (width,) * len(strides)
        self.head_shape = HeadShape(tuple(model.anchor_generator.num_anchors_per_location()), product=multiplies(model.head))
        if steps := tower_steps(model.head):
            self.gives = (*self.gives, "towers")
            self.head_shape = replace(self.head_shape, convs=len(steps[0]), channels=width)

    @abstractmethod
    def losses(self, rows: list[dict[str, Tensor]], head: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]) -> dict[str, Tensor]:
        """The task losses; `rows` are the targets as torchvision expects them, see `row_of`, `sizes` the numbers of anchors per level."""

    @abstractmethod
    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes [B, N, 4] from what the head predicts for anchors [B, N, 4]."""

    @property
    def box_code(self) -> BoxCode | None:
        """How `decode` reads what the head predicts; None if it does more than a BoxCode can say."""
        return None

    def coded(self, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model's head returned, under the names above; others than those only `losses` reads."""
        return dict(head)

    def features(self, images: Tensor) -> list[Tensor]:
        """The pyramid, finest first."""
        return list(self.model.backbone(images).values())

    def anchors(self, images: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """For each image [N of all levels, 4], in float32: torchvision's generator uses the features' type, and fp16 rounds by whole px."""
        sizes = [(images.shape[-2], images.shape[-1])] * images.shape[0]
        anchors: list[Tensor] = self.model.anchor_generator(ImageList(images, sizes), [level.float() for level in features])
        return anchors

    def sizes(self, features: Sequence[Tensor]) -> list[int]:
        """The number of anchors of each level."""
        places = self.model.anchor_generator.num_anchors_per_location()
        return [level.shape[-2] * level.shape[-1] * num for level, num in zip(features, places, strict=True)]

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """See Detector.forward."""
        features = self.features(images)
        head = self.coded(self.model.head(features))
        sizes = self.sizes(features)
        losses: dict[str, Tensor] = {}
        if targets is not None:
            with torch.autocast(images.device.type, enabled=False):
                full = {name: tensor.float() for name, tensor in head.items()}
                losses = self._learn(targets, full, self.anchors(images, features), sizes)
        return self._outputs(features, head, losses, (images.shape[-2], images.shape[-1]))

    def _learn(self, targets: Sequence[Target], head: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]) -> dict[str, Tensor]:
        if is_doubtful(targets):
            return heeded(targets, head, anchors, lambda rows, own: self.losses(rows, own, anchors, sizes))
        return self.losses([row_of(target) for target in targets], head, anchors, sizes)

    def decoded(self, outputs: Outputs) -> Decoded:
        """See Detector.decoded."""
        deltas = next(outputs.head[HEAD_NAMES[name]] for name in _CODES if HEAD_NAMES[name] in outputs.head)
        sizes = self.sizes(outputs.pyramid)
        anchors = self.anchors(deltas[0].new_empty(1, 0, *outputs.size), outputs.pyramid)[0].split(sizes)
        boxes = (self.decode(own.float(), squares.expand(len(own), -1, -1)) for own, squares in zip(deltas, anchors, strict=True))
        return Decoded(tuple(boxes), anchors)

    def head_on(self, pyramid: Sequence[Tensor], size: tuple[int, int]) -> Outputs:
        """See Detector.head_on."""
        return self._outputs(pyramid, self.coded(self.model.head(list(pyramid))), {}, size)

    def towers(self, outputs: Outputs, convs: int) -> Towers:
        """See Detector.towers."""
        steps = tower_steps(self.model.head) or self._refuse_towers()
        made = [tuple(run(tower[:convs], level) for level in outputs.pyramid) for tower in steps]
        return Towers(made[0], made[1], convs)

    def head_after(self, towers: Towers, size: tuple[int, int]) -> Outputs:
        """See Detector.head_after."""
        head = rest_of_head(self.model.head, towers) if tower_steps(self.model.head) else self._refuse_towers()
        return self._outputs(towers.classes, head, {}, size)

    def _refuse_towers(self) -> NoReturn:
        raise self._cannot("towers")

    def _outputs(
        self, features: Sequence[Tensor], head: Mapping[str, Tensor], losses: Mapping[str, Tensor], size: tuple[int, int]
    ) -> Outputs:
        sizes = self.sizes(features)
        levels = {HEAD_NAMES[name]: tensor.split(sizes, dim=1) for name, tensor in head.items() if name in HEAD_NAMES}
        return Outputs(tuple(features), self.strides, levels, losses, size=size, network=self)

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return DenseGraph(self, options)


class DenseGraph(Graph, HostDecodable):
    """The deployed form of a DenseDetector: the same decisions as torchvision's model in eval mode, at a fixed shape."""

    scoring: ClassVar[str] = "mean"
    """HostDecoding.scores"""

    def __init__(self, detector: DenseDetector, options: GraphOptions) -> None:
        super().__init__()
        self.detector = detector
        self.options = options

    def forward(self, images: Tensor) -> GraphOutput:
        """See Graph.forward."""
        features = self.detector.features(images)
        raw = self.raw(features)
        head = self.detector.coded({name: tensor.float() for name, tensor in raw.items()})
        sizes = self.detector.sizes(features)
        levels = {name: tensor.split(sizes, dim=1) for name, tensor in head.items()}
        anchors = self.detector.anchors(images[:1], features)[0].split(sizes)
        parts = [self.level({name: split[i] for name, split in levels.items()}, anchors[i]) for i in range(len(sizes))]
        boxes, scores, labels = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
        answer = self.selected(boxes, scores, labels, (images.shape[-2], images.shape[-1]))
        return GraphOutput(*answer, head=tuple(raw.values()))

    def decoding(self, size: tuple[int, int]) -> HostDecoding | None:
        """See HostDecodable.decoding."""
        code = self.detector.box_code
        if code is None:
            return None
        images = torch.zeros(1, 3, *size, device=next(self.parameters()).device)
        with torch.no_grad():
            features = self.detector.features(images)
            names = [HEAD_NAMES[name] for name in self.raw(features)]
        anchors = self.detector.anchors(images, features)[0].split(self.detector.sizes(features))
        given = {name: getattr(self.options, name) for name in _DECIDING}
        levels = head_levels(anchors, [(level.shape[-2], level.shape[-1]) for level in features])
        return HostDecoding.model_validate({"outputs": names, "levels": levels, "code": code, "scores": self.scoring, **given})

    def raw(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the model's head returns."""
        head: dict[str, Tensor] = self.detector.model.head(features)
        return head

    def level(self, head: Mapping[str, Tensor], anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The level's candidates: boxes [B, N, 4], scores [B, N], 0 below the threshold, and labels [B, N]."""
        scores, place, labels = candidates(head["cls_logits"], head.get("bbox_ctrness"), self.options.candidates)
        return self.boxes(head, anchors, place), self.above_threshold(scores), labels

    def boxes(self, head: Mapping[str, Tensor], anchors: Tensor, place: Tensor) -> Tensor:
        """Of the level's anchors at places [B, N], the boxes [B, N, 4]."""
        code = next(head[name] for name in _CODES if name in head)
        return self.detector.decode(rows(code, place), anchors[place])

    def above_threshold(self, scores: Tensor) -> Tensor:
        """The scores, 0 in place of those that are not above the threshold."""
        return torch.where(scores > self.options.score_threshold, scores, torch.zeros_like(scores))

    def judged(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """The scores [B, N] of all candidates once their boxes [B, N, 4] are known, clipped to the image."""
        return scores

    def selected(self, boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `select`; the boxes are those of all candidates, the answer's are within an image of size (height, width)."""
        boxes = clip(boxes, *size)
        scores = self.judged(boxes, scores)
        limits = self.options.iou_threshold, self.options.max_detections
        return select(boxes, scores, labels, *limits, agnostic=self.options.agnostic)


class SelectiveGraph(DenseGraph):
    """As DenseGraph, but for two decisions of the authors who do not use torchvision.

    Candidates are chosen by class alone, before a quality, if there is one, multiplies their scores; and boxes without area drop out.
    """

    scoring = "class_first"

    def level(self, head: Mapping[str, Tensor], anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See DenseGraph.level."""
        scores, place, labels = candidates(head["cls_logits"], None, self.options.candidates)
        scores = self.above_threshold(scores)
        if "bbox_ctrness" in head:
            scores = scores * torch.sigmoid(rows(head["bbox_ctrness"], place)[..., 0])
        return self.boxes(head, anchors, place), scores, labels

    def judged(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """See DenseGraph.judged."""
        extent = (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1)
        return torch.where(extent > 0, scores, torch.zeros_like(scores))


def candidates(logits: Tensor, quality: Tensor | None, num_best: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of a position and a class.

    Args:
        logits: [B, N, K].
        quality: [B, N, 1] logits; with them a score is the geometric mean of both probabilities.

    Returns:
        Scores [B, M] descending, positions [B, M], classes [B, M]; M is num_best, or N * K if that is less.
    """
    num_classes = logits.shape[-1]
    narrow = logits.shape[1] >= _NARROW_FROM * num_best
    place = None
    if narrow:  # the best num_best pairs are at no more than num_best positions, those with the best single scores
        strongest = _scores(logits.amax(dim=-1, keepdim=True), quality)[..., 0]
        place = best(strongest, num_best)[1]
        logits, quality = rows(logits, place), None if quality is None else rows(quality, place)
    scores, chosen = best(_scores(logits, quality).flatten(1), min(num_best, logits.shape[1] * num_classes))
    row = torch.div(chosen, num_classes, rounding_mode="floor")
    return scores, row if place is None else torch.gather(place, 1, row), chosen - row * num_classes


def _scores(logits: Tensor, quality: Tensor | None) -> Tensor:
    scores = torch.sigmoid(logits)
    return scores if quality is None else torch.sqrt(scores * torch.sigmoid(quality))


def rows(values: Tensor, place: Tensor) -> Tensor:
    """The rows [B, M, ...] of values [B, N, ...] at places [B, M]."""
    index = place.reshape(*place.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
    return torch.gather(values, 1, index)
