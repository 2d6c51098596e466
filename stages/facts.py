"""What the artifact.json of each kind of artifact says."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from deploy.accuracy.drift import Drift
from deploy.bundles.manifest import Verdict
from deploy.contract import Accuracy, Cost, Frozen, GraphFacts, Latency, ModelContract
from deploy.engines.choice import Choice
from deploy.engines.fallback import Fallback
from deploy.errors import ArtifactError

FACTS = "artifact.json"


F = TypeVar("F", bound=Frozen)


def write_facts(folder: Path, facts: Frozen) -> None:
    """Write `facts` as the folder's artifact.json."""
    (folder / FACTS).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_facts(folder: Path, kind: type[F]) -> F:
    """Read the folder's artifact.json.

    Raises:
        ArtifactError: it is missing or does not describe a `kind`.
    """
    try:
        return kind.model_validate_json((folder / FACTS).read_bytes())
    except OSError as error:
        raise ArtifactError(f"{folder / FACTS}: {error.strerror}; delete the folder and run again") from error
    except ValidationError as error:
        raise ArtifactError(f"{folder / FACTS}: not a {kind.__name__}; delete the folder and run again") from error


class Split(Frozen):
    """Images and cleaned COCO annotations; `images` is absolute or relative to the artifact."""

    images: str
    annotations: str
    num_images: int
    num_boxes: int


class DatasetFacts(Frozen):
    """`problems` counts what was left out, by kind, and names the first of each."""

    contract: ModelContract
    splits: dict[str, Split]
    problems: dict[str, tuple[str, ...]]
    num_problems: dict[str, int]


class PluginChoice(Frozen):
    """A plugin's name with its resolved options."""

    name: str
    options: dict[str, Any]


class CheckpointFacts(Frozen):
    """`macs` counts multiply-accumulates of one image at the contract's size, in the network alone."""

    contract: ModelContract
    detector: PluginChoice
    parameters: int
    macs: int
    epochs: int
    accuracy: Accuracy


class OnnxFacts(GraphFacts):
    """An exported graph with its contract."""

    contract: ModelContract


class EngineFacts(Frozen):
    """`file` is null and `why` says the reason where the engine could not be built here.

    `typed` is the file with the ONNX graph in the engine's precision; the engine itself, where it is one.
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
    why: str | None


class ReportFacts(Frozen):
    """`accuracy` and `latency` are null and `why` says the reason where the engine cannot run here.

    `lowest_ms` is what the network would take at least on this machine, at its peak rates; null where they are not known.
    `proof` is what the open engine says of its own precision, where it can be asked.
    `data` is the hash and the number of the images that accuracy was measured on.
    """

    target: str
    runtime: str
    precision: str
    accuracy: Accuracy | None
    latency: Latency | None
    bytes: int | None
    sha256: str | None
    machine: dict[str, str]
    lowest_ms: float | None = None
    proof: dict[str, Any] = Field(default_factory=dict)
    data: tuple[str, int] | None = None
    why: str | None


class ParityStep(Frozen):
    """The same network on the same images, one conversion later; `drift` is from the step before, null for the first.

    `how` says what computed it; `largest` is the largest value of each half-precision tensor, where it was computed in true half.
    `why` says the reason where it could not be computed, and the figures are null.
    """

    name: Literal["student", "onnx", "typed", "engine"]
    how: str
    map: float | None
    map_50: float | None
    drift: Drift | None
    largest: dict[str, float]
    why: str | None = None


class ParityFacts(Frozen):
    """Step by step from the trained network to a target's engine; `culprit` is the step that lost most, null where none lost much.

    `why` says the reason where the engine's own step is missing.
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
