"""Where a target's accuracy went: the same images through every form that the network takes on its way to the engine.

torch, the exported ONNX graph, the same in the target's precision, the engine. Between two steps stands what one conversion cost.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deploy import plugins
from deploy.accuracy import Split, judge
from deploy.contract import Accuracy
from deploy.drift import drift
from deploy.predictor import Predictor
from stages.artifacts import (
    Artifact,
    Checkpoint,
    Dataset,
    Engine,
    EngineFacts,
    Parity,
    ParityFacts,
    ParityStep,
    Report,
    read_json,
    write_facts,
)
from stages.splits import split as judged_on
from stages.stage import stage

DETECTIONS = "detections.json"
PLAIN = "ONNX Runtime, not optimized"
NOTABLE = 0.0005
"""A step that loses more mAP than this is named."""


class Form(NamedTuple):
    """What one form of the network finds in the split; `largest` as in ParityStep."""

    name: Literal["torch", "onnx", "typed", "engine"]
    how: str
    accuracy: Accuracy
    detections: list[dict[str, Any]]
    largest: dict[str, float]


@stage(version=1)
def parity(out: Path, student: Checkpoint, plain: Report, engine: Engine, report: Report, dataset: Dataset) -> Parity:
    """Compare the forms on the split that the report is of.

    Args:
        student: judged in torch when it was trained.
        plain: of the exported graph as it is, in ONNX Runtime without optimizations.
        engine, report: the target's.

    Raises:
        ArtifactError: the typed graph's answer cannot be used; a half tensor that is not finite is named.
    """
    facts, split = engine.facts, student.facts.accuracy.split
    forms = [_form("torch", "torch", student, student.facts.accuracy), _form("onnx", PLAIN, plain, plain.facts.accuracy)]
    if facts.typed is not None and facts.precision != "fp32":
        forms.append(_typed(engine.file(facts.typed), facts, judged_on(dataset, split)))
    measured = report.facts
    if measured.accuracy is not None:
        forms.append(_form("engine", f"{facts.runtime} {facts.precision}", report, measured.accuracy))
    steps = tuple(_step(form, before) for form, before in zip(forms, [None, *forms], strict=False))
    write_facts(out, ParityFacts(target=facts.target, split=split, steps=steps, culprit=culprit(steps), why=measured.why))
    return Parity(out)


def culprit(steps: Sequence[ParityStep]) -> str | None:
    """The step that lost most mAP, if that is more than NOTABLE."""
    losses = {after.name: before.map - after.map for before, after in pairwise(steps) if before.map is not None and after.map is not None}
    worst = max(losses, key=lambda name: losses[name], default=None)
    return worst if worst is not None and losses[worst] > NOTABLE else None


def _form(name: Literal["torch", "onnx", "engine"], how: str, judged: Artifact, accuracy: Accuracy | None) -> Form:
    assert accuracy is not None, "the graph runs where it was exported"
    return Form(name, how, accuracy, read_json(judged.file(DETECTIONS)), {})


def _typed(file: Path, facts: EngineFacts, split: Split) -> Form:
    """The graph in the engine's precision, as it is written: halves are halves, integers their float equivalents."""
    label = f"parity {facts.target}"
    if facts.precision == "fp16":
        from deploy.half import HalfSession  # needs the onnx package

        half = HalfSession(file)
        found = judge(Predictor(half, facts.contract), split, label)
        return Form("typed", "ONNX's reference evaluator, in half precision", found.accuracy, found.detections, half.largest)
    with plugins.load("deploy.runtimes", "ort").open(file, options={"optimization": "none", "provider": "cpu"}) as session:
        found = judge(Predictor(session, facts.contract), split, label)
    return Form("typed", PLAIN, found.accuracy, found.detections, {})


def _step(form: Form, before: Form | None) -> ParityStep:
    accuracy = form.accuracy
    return ParityStep(
        name=form.name,
        how=form.how,
        map=accuracy.map,
        map_50=accuracy.map_50,
        drift=None if before is None else drift(before.detections, form.detections),
        largest=form.largest,
    )
