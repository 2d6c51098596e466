"""Compares the student with the baselines, image by image: what distillation gained, and how sure that is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.accuracy.matches import Matches, match
from deploy.comparison.bootstrap import drop
from deploy.comparison.compare import MIN_IMAGES
from deploy.comparison.gain import DistillationGain, GainOver
from stages.artifacts import DETECTIONS, Checkpoint, Dataset, Gains, StepTimes, read_json
from stages.facts import write_facts
from stages.measurement.splits import labeled_split
from stages.stage import stage

ERROR_RATE = 0.025
"""On each side of the interval, which covers 95%."""


@stage(version=1)
def compare(
    out: Path,
    dataset: Dataset,
    teacher: Checkpoint,
    student: Checkpoint,
    baselines: Mapping[str, Checkpoint],
    times: StepTimes | None,
    left_out: str | None,
) -> Gains:
    """The student's gain over each baseline, from the detections that were judged when the networks were trained.

    Args:
        baselines: by what is equal to the student's training: "steps", "cost" or both.
        left_out: why the baseline at equal cost was not trained, if the run meant to have it.
    """
    judged = student.facts.accuracy
    truth = labeled_split(dataset, judged.split).truth
    enough = judged.num_images >= MIN_IMAGES
    own = _matches(truth, student) if enough else None
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
    )
    write_facts(out, facts)
    return Gains(out)


def _over(baseline: Checkpoint, student: float | None, own: Matches | None, truth: Mapping[str, Any]) -> GainOver:
    facts = baseline.facts
    reached = facts.accuracy.map
    gain = None if student is None or reached is None else student - reached
    fall = None if own is None else drop(own, _matches(truth, baseline), slice(None), relative=False, error_rate=ERROR_RATE)
    rise = None if fall is None else fall.reversed()
    return GainOver(epochs=facts.epochs, map=reached, gain=gain, low=rise and rise.low, high=rise and rise.high)


def _matches(truth: Mapping[str, Any], network: Checkpoint) -> Matches:
    return match(truth, read_json(network.file(DETECTIONS)))
