"""Both networks' heads at the same places of the same levels."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from deploy.errors import ConfigError
from stages.detectors import Decoded, Outputs
from stages.losses import NetworkSide
from stages.losses.features.levels import LevelPair, match


@dataclass(frozen=True)
class LevelRows:
    """A level's rows of both heads, in float32, the teacher's detached; N rows, at the student's anchors [N, 4] in px.

    logits, other_logits: [B, N, K]; the proposal network's have K = 1. boxes, other_boxes: [B, N, 4] (x1, y1, x2, y2) in px.
    """

    logits: Tensor
    other_logits: Tensor
    boxes: Tensor
    other_boxes: Tensor
    anchors: Tensor


def paired(loss: str, student: NetworkSide, teacher: NetworkSide, strides: tuple[int, ...] | None) -> tuple[LevelPair, ...]:
    """The levels at which both heads predict at the same places, finest first.

    Raises:
        ConfigError: the networks' kinds, classes or numbers of boxes per position differ, or no level can learn.
    """
    if student.kind != teacher.kind or student.num_classes != teacher.num_classes:
        sides = " and ".join(f"{side.detector} ({side.kind}, {side.num_classes} classes)" for side in (student, teacher))
        raise ConfigError(f"distill.losses: {loss} compares heads of one kind with the same classes, not {sides}; choose a different loss")
    levels = match(student, teacher, strides)
    for pair in levels:
        own, other = (side.head.places[index : index + 1] for side, index in ((student, pair.own), (teacher, pair.other)))
        if own != other or not own:
            given = ", ".join(f"{side.detector} {_per_position(places)}" for side, places in ((student, own), (teacher, other)))
            stride = student.strides[pair.own]
            raise ConfigError(
                f"distill.losses: {loss} compares heads at the same places, but at stride {stride} they predict different numbers of boxes "
                f"per position: {given}; choose a different loss, or heads with equal anchors"
            )
    return levels


def _per_position(places: tuple[int, ...]) -> str:
    return str(places[0]) if places else "an unknown number"


def rows(student: Outputs, teacher: Outputs, levels: Sequence[LevelPair]) -> list[LevelRows]:
    """The heads' rows at each pair of levels.

    Raises:
        ConfigError: a level's sizes differ, as they may where one network rounds the stride.
    """
    name = "objectness" if "objectness" in student.head else "class_logits"
    logits, others = student.head[name], teacher.head[name]
    own, other = student.decoded(), teacher.decoded()
    return [_level(logits[pair.own], others[pair.other], own, other, pair, student.strides[pair.own]) for pair in levels]


def _level(logits: Tensor, others: Tensor, own: Decoded, other: Decoded, pair: LevelPair, stride: int) -> LevelRows:
    if logits.shape != others.shape:
        counts = f"{logits.shape[1]} and the teacher's {others.shape[1]}"
        raise ConfigError(
            f"distill.losses: at stride {stride}, the student's head has {counts} rows; choose different strides for the loss"
        )
    assert own.anchors is not None
    boxes, other_boxes = own.boxes[pair.own].float(), other.boxes[pair.other].detach().float()
    return LevelRows(logits.float(), others.detach().float(), boxes, other_boxes, own.anchors[pair.own].float())
