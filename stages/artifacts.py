"""What flows between the stages: folders with a typed description each.

Every stage takes artifacts and writes one artifact under a folder given to it; `artifact.json` there holds its facts.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from deploy.bundle import Verdict
from deploy.choice import Choice
from deploy.contract import Accuracy, Cost, Frozen, GraphFacts, Latency, ModelContract
from deploy.drift import Drift
from deploy.errors import ArtifactError, DataError
from deploy.fallback import Fallback
from deploy.plugins import suggest

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

    name: Literal["torch", "onnx", "typed", "engine"]
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


class BundleFacts(Frozen):
    """`manifest.json` in the folder is what deployment reads."""

    target: str
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """A finished folder; its name ends in the hash of all that made it."""

    root: Path

    def file(self, name: str) -> Path:
        """A file of the artifact; ArtifactError where it is missing."""
        path = self.root / name
        if not path.exists():
            raise ArtifactError(f"{path}: missing from the artifact; delete {self.root} and run again")
        return path


@dataclass(frozen=True)
class Dataset(Artifact):
    """annotations/<split>.json and, for generated data, images/<split>/."""

    @property
    def facts(self) -> DatasetFacts:
        """Classes, preprocessing, splits."""
        return read_facts(self.root, DatasetFacts)

    def split(self, name: str) -> Split:
        """A split by its name.

        Raises:
            DataError: the data has none of this name.
        """
        splits = self.facts.splits
        if name not in splits:
            raise DataError(f"no split '{name}'{suggest(name, splits)}: the data has {', '.join(sorted(splits))}")
        return splits[name]

    def images(self, split: str) -> Path:
        """The folder that the split's `file_name`s are relative to."""
        return self.root / self.split(split).images

    def annotations(self, split: str) -> Path:
        """The split's cleaned COCO file."""
        return self.root / self.split(split).annotations


@dataclass(frozen=True)
class Checkpoint(Artifact):
    """weights.safetensors, curves.csv (one row an epoch), detections.json (COCO results on the evaluated split)."""

    @property
    def facts(self) -> CheckpointFacts:
        """Detector, size, accuracy."""
        return read_facts(self.root, CheckpointFacts)


@dataclass(frozen=True)
class OnnxModel(Artifact):
    """model.onnx: images [B, 3, H, W] to boxes [B, K, 4], scores [B, K], labels [B, K], converged [B], masks [B, K, h, w] if any."""

    @property
    def facts(self) -> OnnxFacts:
        """Input, output, hash."""
        return read_facts(self.root, OnnxFacts)


@dataclass(frozen=True)
class Engine(Artifact):
    """The file that a runtime opens."""

    @property
    def facts(self) -> EngineFacts:
        """Runtime, precision, fingerprint."""
        return read_facts(self.root, EngineFacts)


@dataclass(frozen=True)
class Report(Artifact):
    """Accuracy and latency of one engine; detections.json and curves.json (precision-recall) beside it."""

    @property
    def facts(self) -> ReportFacts:
        """The measurements."""
        return read_facts(self.root, ReportFacts)


@dataclass(frozen=True)
class Parity(Artifact):
    """Where a target's accuracy went."""

    @property
    def facts(self) -> ParityFacts:
        """The steps."""
        return read_facts(self.root, ParityFacts)


@dataclass(frozen=True)
class Verdicts(Artifact):
    """What the gates said of one report."""

    @property
    def facts(self) -> VerdictFacts:
        """The list."""
        return read_facts(self.root, VerdictFacts)


@dataclass(frozen=True)
class Bundle(Artifact):
    """Engine, ONNX, manifest.json and model card: what is deployed."""

    @property
    def facts(self) -> BundleFacts:
        """Target and hash of the manifest."""
        return read_facts(self.root, BundleFacts)


def read_json(path: Path) -> Any:
    """Parse a JSON file written by a stage."""
    return json.loads(path.read_text(encoding="utf-8"))
