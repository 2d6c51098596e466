"""Compares the student with the baselines, image by image: what distillation gained, and how sure that is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.accuracy import coco
from deploy.accuracy.matches import Matches, match
from deploy.comparison.bootstrap import lead
from deploy.comparison.gain import Agreement, DistillationGain, GainOver
from deploy.comparison.interval import MIN_IMAGES
from deploy.prediction.detections import class_names
from stages.artifacts import DETECTIONS, Checkpoint, Dataset, Gains, PseudoLabels, StepTimes, read_json
from stages.facts import write_facts
from stages.measurement.splits import labeled_split
from stages.stage import stage
from stages.unlabeled_facts import PseudoClass


@stage(version=2)
def compare(
    out: Path,
    dataset: Dataset,
    teacher: Checkpoint,
    student: Checkpoint,
    baselines: Mapping[str, Checkpoint],
    times: StepTimes | None,
    left_out: str | None,
    labels: PseudoLabels | None = None,
) -> Gains:
    """The student's gain over each baseline, from the detections that were judged when the networks were trained.

    Args:
        baselines: by what is equal to the student's training: "steps", "cost" or both.
        left_out: why the baseline at equal cost was not trained, if the run meant to have it.
        labels: what decides which of the teacher's detections count, to compare the student with them if the split has no labels.
    """
    judged = student.facts.accuracy
    truth = labeled_split(dataset, judged.split).truth
    own = _matches(truth, student) if judged.num_images >= MIN_IMAGES else None
    over = {equal: _over(baseline, judged.map, own, truth) for equal, baseline in baselines.items()}
    facts = DistillationGain(
        split=judged.split,
        num_images=judged.num_images,
        teacher_map=teacher.facts.accuracy.map,
        student_map=judged.map,
        epochs=student.facts.epochs,
        equal_steps=over.get("steps"),
        equal_cost=over.get("cost"),
        step_ratio=None if times is None else times.facts.ratio,
        left_out=left_out,
        agreement=None if labels is None or truth["annotations"] else agreement(truth, teacher, student, labels.facts.classes),
    )
    write_facts(out, facts)
    return Gains(out)


def agreement(truth: Mapping[str, Any], teacher: Checkpoint, student: Checkpoint, limits: Mapping[str, PseudoClass]) -> Agreement:
    """How well the student's detections agree with those of the teacher's that would be targets.

    Args:
        truth: the split's images and classes; it has no objects.
    """
    names = class_names(truth)
    found = [one for one in read_json(teacher.file(DETECTIONS)) if _accepted(one["score"], limits[names[one["category_id"]]])]
    boxes = [
        {**one, "id": number, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0} for number, one in enumerate(found, 1) if "bbox" in one
    ]
    own = read_json(student.file(DETECTIONS))
    accuracy, _ = coco.evaluate({**truth, "annotations": boxes}, own, student.facts.accuracy.split, [*names.values()], masks=False)
    return Agreement(map=accuracy.map, map_50=accuracy.map_50, num_boxes=len(boxes))


def _accepted(score: float, limits: PseudoClass) -> bool:
    return limits.accept is not None and score >= limits.accept


def _over(baseline: Checkpoint, student: float | None, own: Matches | None, truth: Mapping[str, Any]) -> GainOver:
    facts = baseline.facts
    reached = facts.accuracy.map
    gain = None if student is None or reached is None else student - reached
    rise = None if own is None else lead(own, _matches(truth, baseline))
    return GainOver(epochs=facts.epochs, map=reached, gain=gain, low=rise and rise.low, high=rise and rise.high)


def _matches(truth: Mapping[str, Any], network: Checkpoint) -> Matches:
    return match(truth, read_json(network.file(DETECTIONS)))
