"""Where a target loses accuracy: the same images through every form that the network takes on its way to the engine.

The forms are the student in torch, the exported ONNX graph, that graph in the target's precision, and the engine. The difference
between two steps is the cost of one conversion.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deploy import plugins
from deploy.accuracy import coco
from deploy.accuracy.drift import drift
from deploy.accuracy.judge import LabeledSplit, judge
from deploy.contract import ModelContract
from deploy.errors import ArtifactError
from deploy.prediction.predictor import SessionPredictor
from stages.artifacts import DETECTIONS, OTHER_INT8, Artifact, Checkpoint, Dataset, Engine, Parity, Report, read_json
from stages.config import ValidationConfig
from stages.facts import EngineFacts, ParityFacts, ParityStep, write_facts
from stages.measurement.splits import labeled_split, some
from stages.stage import stage

UNOPTIMIZED = "ONNX Runtime, not optimized"
NOTABLE = 0.0005
"""A step that loses more mAP than this is named."""


class StepDetections(NamedTuple):
    """What one form of the network finds in the split; `largest` and `why` as in ParityStep."""

    name: Literal["student", "onnx", "other_int8", "typed", "engine"]
    how: str
    detections: list[dict[str, Any]] | None
    largest: Mapping[str, float] = {}
    why: str | None = None


@stage(version=3)
def parity(
    out: Path,
    config: ValidationConfig,
    student: Checkpoint,
    plain: Report,
    engine: Engine,
    report: Report,
    dataset: Dataset,
    tuned: Checkpoint | None = None,
) -> Parity:
    """Compare the forms on the report's split; half precision, which is slow, on `parity_images` of its images.

    Args:
        student: judged in torch when it was trained.
        plain: the report of the exported graph as it is, in ONNX Runtime without optimizations.
        engine, report: the target's engine and its report.
        tuned: the student as it was trained for the target's int8; None if it was not.
    """
    facts, measured = engine.facts, report.facts
    split = labeled_split(dataset, student.facts.accuracy.split)
    if facts.typed is not None and facts.precision == "fp16":
        split = some(split, config.parity_images)
    forms = [StepDetections("student", "torch", _found(student, split)), StepDetections("onnx", UNOPTIMIZED, _found(plain, split))]
    if tuned is not None and (tuned.root / OTHER_INT8).exists():
        forms.append(_other(tuned, facts, split))
    if facts.typed is not None and facts.precision != "fp32":
        forms.append(_typed(engine.file(facts.typed), facts, split))
    if measured.accuracy is not None:
        forms.append(StepDetections("engine", f"{facts.runtime} {facts.precision}", _found(report, split)))
    steps = tuple(_step(form, forms[:index], split, facts.contract) for index, form in enumerate(forms))
    named = culprit(steps)
    write_facts(
        out,
        ParityFacts(target=facts.target, split=split.name, num_images=len(split.images), steps=steps, culprit=named, why=measured.why),
    )
    return Parity(out)


def culprit(steps: Sequence[ParityStep]) -> str | None:
    """The step that could not be judged, otherwise the one that lost most mAP, if it lost more than NOTABLE."""
    broken = next((step.name for step in steps if step.why is not None), None)
    passed = [step for step in steps if step.name != "other_int8"]
    losses = {after.name: before.map - after.map for before, after in pairwise(passed) if before.map is not None and after.map is not None}
    worst = max(losses, key=lambda name: losses[name], default=None)
    return broken or (worst if worst is not None and losses[worst] > NOTABLE else None)


def _found(judged: Artifact, split: LabeledSplit) -> list[dict[str, Any]]:
    """The detections stored when the form was judged, restricted to the split's images."""
    kept = {image["id"] for image in split.truth["images"]}
    return [one for one in read_json(judged.file(DETECTIONS)) if one["image_id"] in kept]


def _other(tuned: Checkpoint, facts: EngineFacts, split: LabeledSplit) -> StepDetections:
    """The int8 graph that was not kept."""
    kept = {image["id"] for image in split.truth["images"]}
    found = [one for one in read_json(tuned.file(OTHER_INT8)) if one["image_id"] in kept]
    title = "post-training int8" if facts.int8 is not None and facts.int8.kept else "trained for int8, not kept"
    return StepDetections("other_int8", f"{title}, {UNOPTIMIZED}", found)


def _typed(file: Path, facts: EngineFacts, split: LabeledSplit) -> StepDetections:
    """The graph in the engine's precision, as written: fp16 is computed in fp16, integers as their float equivalents."""
    label = f"parity {facts.target}"
    if facts.precision == "fp16":
        from deploy.runtimes.onnx_files.half import HalfSession  # needs the onnx package

        how = "reference evaluator, in half"
        try:
            half = HalfSession(file)
            return StepDetections("typed", how, judge(SessionPredictor(half, facts.contract), split, label).detections, half.largest)
        except ArtifactError as error:  # a finding about this target that does not affect the others
            return StepDetections("typed", how, None, why=str(error))
    with plugins.load("deploy.runtimes", "ort").open(file, options={"optimization": "none", "provider": "cpu"}) as session:
        return StepDetections("typed", UNOPTIMIZED, judge(SessionPredictor(session, facts.contract), split, label).detections)


def _step(form: StepDetections, before: Sequence[StepDetections], split: LabeledSplit, contract: ModelContract) -> ParityStep:
    """Judge a form and compare it with the last form before it that has detections."""
    last = next((one.detections for one in reversed(before) if one.detections is not None and one.name != "other_int8"), None)
    accuracy = None
    if form.detections is not None:
        masks = contract.mask_frame is not None
        accuracy, _ = coco.evaluate(split.truth, form.detections, split.name, contract.classes, masks=masks)
    return ParityStep(
        name=form.name,
        how=form.how,
        map=None if accuracy is None else accuracy.map,
        map_50=None if accuracy is None else accuracy.map_50,
        drift=None if last is None or form.detections is None else drift(last, form.detections),
        largest=dict(form.largest),
        why=form.why,
    )
