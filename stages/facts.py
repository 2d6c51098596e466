"""The contents of artifact.json for each kind of artifact."""

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field
from pydantic_core import PydanticSerializationError

from deploy.accuracy.conditions import Corruptions
from deploy.accuracy.drift import Drift
from deploy.bundles.manifest import Verdict
from deploy.comparison.learning_curve import LearningCurve
from deploy.comparison.robustness import RobustnessFigures
from deploy.contract import Accuracy, Cost, Frozen, GraphFacts, Latency, ModelContract, Ratio
from deploy.engines.choice import Choice
from deploy.engines.fallback import Fallback
from deploy.engines.int8_training import Int8Figures
from deploy.errors import ArtifactError
from deploy.latency.measure import Latencies
from stages.notes import Note

FACTS = "artifact.json"
_SURROGATE = b"\\ud"

F = TypeVar("F", bound=Frozen)


def write_facts(folder: Path, facts: Frozen) -> None:
    """Write `facts` as the folder's artifact.json."""
    try:
        text = facts.model_dump_json(indent=2)
    except PydanticSerializationError:  # names of files that are not UTF-8
        text = json.dumps(facts.model_dump(mode="json"), indent=2)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")


def read_facts(folder: Path, kind: type[F]) -> F:
    """Read the folder's artifact.json.

    Raises:
        ArtifactError: it is missing or does not describe a `kind`.
    """
    try:
        content = (folder / FACTS).read_bytes()
        # pydantic's own parser takes no escapes of single surrogates, in which names of files that are not UTF-8 are written
        return kind.model_validate(json.loads(content)) if _SURROGATE in content else kind.model_validate_json(content)
    except OSError as error:
        raise ArtifactError(f"{folder / FACTS}: {error.strerror}; delete the folder and run again") from error
    except ValueError as error:
        raise ArtifactError(f"{folder / FACTS}: not a {kind.__name__}; delete the folder and run again") from error


class Split(Frozen):
    """Images and cleaned COCO annotations; `images` is absolute or relative to the artifact."""

    images: str
    annotations: str
    num_images: int
    num_boxes: int


class DatasetFacts(Frozen):
    """`notes` lists what preparing the splits repaired, assumed or left out."""

    contract: ModelContract
    splits: dict[str, Split]
    notes: tuple[Note, ...] = ()


class PluginChoice(Frozen):
    """A plugin's name with its resolved options."""

    name: str
    options: dict[str, Any]


class CheckpointFacts(Frozen):
    """`macs` counts multiply-accumulates for one image at the contract's size, in the network only.

    `curve` is how mAP rose during the training; null if the weights were loaded, or trained before curves were recorded.
    """

    contract: ModelContract
    detector: PluginChoice
    parameters: int
    macs: int
    epochs: int
    accuracy: Accuracy
    curve: LearningCurve | None = None


class StepTimeFacts(Frozen):
    """Seconds of the student's training step without and with its teacher, medians, measured alternately on `device`.

    They include what a step waits for its images. `ratio` is how many times as long the distilled one takes; on a CPU, in processor time,
    in which the work of others does not count. `rounds` is the number of blocks of each.
    """

    plain_s: float
    distilled_s: float
    ratio: Ratio
    rounds: int
    device: str
    machine: dict[str, str]


class StepMemoryFacts(Frozen):
    """Bytes of the tensors that the student's training step needs without and with its teacher.

    On a GPU these are its peak, less what is held between steps; on a CPU, what is kept for the backward pass.
    `distilled_bytes` includes the weights of the teacher and of the losses, which are held between steps. `extra_parameters` are the
    losses', trained but not shipped.
    """

    plain_bytes: int
    distilled_bytes: int
    extra_parameters: int
    device: str


class OnnxFacts(GraphFacts):
    """An exported graph with its contract."""

    contract: ModelContract


class EngineFacts(Frozen):
    """If the engine could not be built on this machine, `file` is null and `why` gives the reason.

    `typed` is the file with the ONNX graph in the engine's precision: the engine itself if that is an ONNX graph. `int8` is what training
    for int8 gained; null without one.
    """

    target: str
    runtime: str
    precision: Literal["fp32", "fp16", "int8"]
    options: dict[str, Any]
    required: bool
    contract: ModelContract
    file: str | None
    typed: str | None
    sha256: str | None
    bytes: int | None
    onnx_sha256: str
    fingerprint: dict[str, str]
    proof: dict[str, Any]
    cost: Cost | None = None
    fallback: Fallback | None = None
    choice: Choice | None = None
    int8: Int8Figures | None = None
    why: str | None


class ReportFacts(Frozen):
    """If the engine cannot run on this machine, `accuracy` is null and `why` gives the reason.

    `lowest_ms` is the network's minimum time on this machine at its peak rates; null if these are unknown.
    `proof` is what the open engine reports about its own precision, if anything.
    `data` is the hash and the number of the images that accuracy was measured on.
    """

    target: str
    runtime: str
    precision: str
    accuracy: Accuracy | None
    bytes: int | None
    sha256: str | None
    machine: dict[str, str]
    lowest_ms: float | None = None
    proof: dict[str, Any] = Field(default_factory=dict)
    data: tuple[str, int] | None = None
    why: str | None


class MeasurementFacts(Frozen):
    """Latencies of all engines that run on this machine; `measured` is null if none does. `left_out` has the reasons for the others."""

    measured: Latencies | None
    left_out: dict[str, str]
    machine: dict[str, str]

    def latency(self, name: str) -> Latency | None:
        """An engine's latency; None if it was not measured."""
        return None if self.measured is None else self.measured.latencies.get(name)

    def speedups(self, name: str) -> dict[str, Ratio]:
        """How many times as long each other engine takes; empty if this one was not measured."""
        if self.measured is None or name not in self.measured.ratios:
            return {}
        return {other: ratios[name] for other, ratios in self.measured.ratios.items() if other != name}


class StressFacts(Frozen):
    """The corruptions that were made of `num_images` images of a split; `library` is what made them, with its versions.

    `left_out` has the reasons for the engines that do not run on this machine.
    """

    split: str
    mode: Corruptions
    num_images: int
    library: dict[str, str]
    left_out: dict[str, str]


class RobustLead(Frozen):
    """The student's lead over the baseline in a metric, both as exported graphs in fp32.

    `low` and `high` are its 95% interval, null if too few images have objects to tell.
    """

    metric: str
    num_images: int
    student: float | None
    baseline: float | None
    gain: float | None
    low: float | None = None
    high: float | None = None


class WorstImage(Frozen):
    """An image on which the student's mAP is low, with the mAP of each network on it alone."""

    split: str
    image_id: int
    file_name: str
    maps: dict[str, float | None]


class RobustnessFacts(Frozen):
    """The figures of every engine that runs on this machine, by its name; `split` is the judged one."""

    split: str
    engines: dict[str, RobustnessFigures]
    leads: tuple[RobustLead, ...]
    worst_images: tuple[WorstImage, ...]


class ParityStep(Frozen):
    """The same network on the same images, one conversion later; `drift` is relative to the step before, null for the first.

    `how` names what computed it; `largest` has the largest value of each half-precision tensor, if truly computed in half precision.
    If it could not be computed, the figures are null and `why` gives the reason. "other_int8" is the int8 graph that was not kept,
    post-training or trained; nothing is compared with it.
    """

    name: Literal["student", "onnx", "other_int8", "typed", "engine"]
    how: str
    map: float | None
    map_50: float | None
    drift: Drift | None
    largest: dict[str, float]
    why: str | None = None


class ParityFacts(Frozen):
    """Step by step from the trained network to a target's engine; `culprit` is the step that lost most, null if none lost much.

    `why` gives the reason if the engine's own step is missing.
    """

    target: str
    split: str
    num_images: int
    steps: tuple[ParityStep, ...]
    culprit: str | None
    why: str | None


class VerdictFacts(Frozen):
    """The verdicts of all gates that apply to one target."""

    target: str
    verdicts: tuple[Verdict, ...]


class PackageFacts(Frozen):
    """`manifest.json` in the folder is what deployment reads."""

    target: str
    sha256: str
