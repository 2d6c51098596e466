"""What the stages pass to one another: folders, each with a typed description.

Every stage takes artifacts and writes one artifact to the folder that it is given; `artifact.json` in that folder holds its facts.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from deploy.accuracy.conditions import Condition
from deploy.comparison.gain import DistillationGain
from deploy.errors import ArtifactError, DataError
from deploy.plugins import suggest
from stages.datasets.tables import table
from stages.datasets.tables.table import SplitTable
from stages.facts import (
    CheckpointFacts,
    DatasetFacts,
    EngineFacts,
    MeasurementFacts,
    OnnxFacts,
    PackageFacts,
    ParityFacts,
    ReportFacts,
    RobustnessFacts,
    Split,
    StepMemoryFacts,
    StepTimeFacts,
    StressFacts,
    VerdictFacts,
    read_facts,
)
from stages.unlabeled_facts import PoolFacts, PseudoFacts

WEIGHTS, LOSS_CURVES, ATTENTION = "weights.safetensors", "curves.csv", "attention.npz"
"""Files of a checkpoint: its weights, one row per epoch, the attention maps that the report shows."""

TABLES, FIELDS = "tables", "fields"
"""The folders of prepared data that have, of each split, a table and what its annotations say of images in addition to COCO's keys."""

ONNX = "model.onnx"
"""The file of an exported graph."""

DETECTIONS, PRECISION_RECALL = "detections.json", "curves.json"
"""Files of everything that was judged: its detections as COCO's results; of a report: precision at each recall."""

OTHER_INT8 = "other_int8.json"
"""The file of a student trained for int8 with what the int8 graph finds that was not kept: post-training int8, or the trained one."""

WORST = "worst.json"
"""The file of robustness with what each network finds in the images on which the student is worst, by split and network."""


@dataclass(frozen=True)
class Artifact:
    """A finished folder; its name ends in the hash of its inputs."""

    root: Path

    def file(self, name: str) -> Path:
        """A file of the artifact; ArtifactError if it is missing."""
        path = self.root / name
        if not path.exists():
            raise ArtifactError(f"{path}: missing from the artifact; delete {self.root} and run again")
        return path


@dataclass(frozen=True)
class Dataset(Artifact):
    """annotations/<split>.json, tables/<split>/ with the same as arrays and, for generated data, images/<split>/."""

    @property
    def facts(self) -> DatasetFacts:
        """Classes, preprocessing, splits."""
        return read_facts(self.root, DatasetFacts)

    def split(self, name: str) -> Split:
        """A split by its name.

        Raises:
            DataError: the data has no split of this name.
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

    def table(self, split: str) -> SplitTable:
        """The split's images and objects, mapped: what a training reads.

        Raises:
            DataError: the data has no split of this name, or it is empty.
        """
        if not self.split(split).num_images:
            raise DataError(f"the split '{split}' has no images")
        return table.read(self.root / TABLES / split)

    def image_fields(self, split: str) -> dict[int, dict[str, str]]:
        """What the data's own annotations say of each image in addition to COCO's keys, by its id."""
        file = self.root / FIELDS / f"{split}.json"
        return {int(number): fields for number, fields in read_json(file).items()} if file.exists() else {}


@dataclass(frozen=True)
class ImagePool(Artifact):
    """images.json: images without labels in COCO's form; frames/: those that are frames of videos."""

    IMAGES: ClassVar[str] = "images.json"
    FRAMES: ClassVar[str] = "frames"

    @property
    def facts(self) -> PoolFacts:
        """How many, and what was left out."""
        return read_facts(self.root, PoolFacts)

    def images(self) -> list[dict[str, Any]]:
        """COCO's rows: id, file_name, absolute, width, height."""
        return _found(self.root, read_json(self.file(self.IMAGES))["images"])


@dataclass(frozen=True)
class PseudoLabels(Artifact):
    """images.json: images without labels and everything that the teacher finds in them, in COCO's form with scores.

    Frames of videos lie in the pool's artifact and are named relative to this one, so that the store can be moved.
    """

    IMAGES: ClassVar[str] = "images.json"

    @property
    def facts(self) -> PseudoFacts:
        """Thresholds, and what they accept."""
        return read_facts(self.root, PseudoFacts)

    def coco(self) -> dict[str, Any]:
        """The images, whose file_name is absolute, and the detections as annotations with scores."""
        found: dict[str, Any] = read_json(self.file(self.IMAGES))
        return {**found, "images": _found(self.root, found["images"])}


def _found(root: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of images, with names that were relative to an artifact's folder."""
    return [{**row, "file_name": os.path.normpath(root.resolve() / row["file_name"])} for row in rows]


@dataclass(frozen=True)
class Checkpoint(Artifact):
    """weights.safetensors, curves.csv (one row per epoch), detections.json (COCO results on the evaluated split).

    Of a training for int8 also int8.json and other_int8.json; its detections are those of the int8 graph.
    """

    @property
    def facts(self) -> CheckpointFacts:
        """Detector, size, accuracy."""
        return read_facts(self.root, CheckpointFacts)


@dataclass(frozen=True)
class StepTimes(Artifact):
    """How long a training step of the student takes, alone and with its teacher."""

    @property
    def facts(self) -> StepTimeFacts:
        """Seconds and their ratio."""
        return read_facts(self.root, StepTimeFacts)


@dataclass(frozen=True)
class StepMemory(Artifact):
    """How much memory a training step of the student takes, alone and with its teacher."""

    @property
    def facts(self) -> StepMemoryFacts:
        """Bytes and parameters."""
        return read_facts(self.root, StepMemoryFacts)


@dataclass(frozen=True)
class Gains(Artifact):
    """What the student gained over each baseline."""

    @property
    def facts(self) -> DistillationGain:
        """The gains with their intervals."""
        return read_facts(self.root, DistillationGain)


@dataclass(frozen=True)
class OnnxModel(Artifact):
    """model.onnx: images [B, 3, H, W] to boxes [B, K, 4], scores [B, K], labels [B, K], converged [B], masks [B, K, h, w] if any.

    int8.json has the ranges that it was trained with, if it was trained for int8.
    """

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
    """Accuracy of one engine, with detections.json and curves.json (precision-recall)."""

    @property
    def facts(self) -> ReportFacts:
        """The measurements."""
        return read_facts(self.root, ReportFacts)


@dataclass(frozen=True)
class Measurement(Artifact):
    """Latencies of all engines, measured together."""

    @property
    def facts(self) -> MeasurementFacts:
        """Latencies and ratios."""
        return read_facts(self.root, MeasurementFacts)


@dataclass(frozen=True)
class Stress(Artifact):
    """<engine>/<corruption>-<severity>.json: what each engine finds in the corrupted images, as COCO's results."""

    @property
    def facts(self) -> StressFacts:
        """What was swept."""
        return read_facts(self.root, StressFacts)

    def detections(self, engine: str, condition: Condition) -> list[dict[str, Any]]:
        """What an engine finds under a condition of the sweep."""
        found: list[dict[str, Any]] = read_json(self.file(f"{engine}/{condition.corruption}-{condition.severity}.json"))
        return found


@dataclass(frozen=True)
class Robustness(Artifact):
    """Every engine's accuracy away from the judged split as it is."""

    @property
    def facts(self) -> RobustnessFacts:
        """The figures, and the student's leads."""
        return read_facts(self.root, RobustnessFacts)


@dataclass(frozen=True)
class Parity(Artifact):
    """Where a target loses accuracy."""

    @property
    def facts(self) -> ParityFacts:
        """The steps."""
        return read_facts(self.root, ParityFacts)


@dataclass(frozen=True)
class Verdicts(Artifact):
    """The gates' verdicts on one report."""

    @property
    def facts(self) -> VerdictFacts:
        """One verdict per gate."""
        return read_facts(self.root, VerdictFacts)


@dataclass(frozen=True)
class Package(Artifact):
    """What is deployed: engine, ONNX, manifest.json and model card."""

    @property
    def facts(self) -> PackageFacts:
        """Target and hash of the manifest."""
        return read_facts(self.root, PackageFacts)


def read_json(path: Path) -> Any:
    """Parse a JSON file written by a stage."""
    return json.loads(path.read_text(encoding="utf-8"))
