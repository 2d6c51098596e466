"""The flow without training: made-up networks, and the real stages from the graph on."""

import contextlib
import io
import shutil
from collections.abc import Mapping
from pathlib import Path

import artifact_samples
import pytest

from deploy.engines import int8_training
from deploy.engines.int8_training import INT8, Int8Training
from pipeline import cli, flow
from stages.artifacts import Checkpoint, Dataset, ImagePool, OnnxModel, PseudoLabels, StepTimes
from stages.config import DataConfig, DetectorConfig, DistillConfig, ExportConfig, FinetuneConfig, StudentConfig, TeacherConfig, TrainConfig
from stages.facts import write_facts
from stages.stage import stage

MAPS: dict[str, float | None] = {"teacher": 0.6, "baseline": 0.4, "baseline_equal_cost": 0.45, "student": 0.5}
RATIO = {"ratio": 1.5}

FCOS = "{name: fcos, backbone: resnet10, width: 8}"
"""Both networks in CONFIG; small, because every command builds them once to see that they can be."""

CONFIG = f"""\
name: small
data: {{dataset: digits}}
teacher: {{detector: {FCOS}}}
student: {{detector: {FCOS}}}
distill: {{losses: [{{name: attention, weight: 1.0}}]}}
targets:
  - {{name: cpu, runtime: ort}}
  - {{name: gpu, runtime: trt, precision: fp16}}
validation: {{latency: {{warmup: 1, min_passes: 3, min_seconds: 0, ratio_width: 100}}}}
gates:
  - {{name: accuracy, metric: map, min: 0.1}}
"""


@stage(version=1)
def prepare(out: Path, config: DataConfig) -> Dataset:
    """Images of colored cells."""
    return artifact_samples.dataset(out)


@stage(version=1)
def train_teacher(
    out: Path,
    config: TeacherConfig,
    seed: int,
    device: str,
    split: str,
    dataset: Dataset,
    export: ExportConfig,
    pool: ImagePool | None = None,
    classes: Mapping[str, str] | None = None,
    labels: PseudoLabels | None = None,
) -> Checkpoint:
    """The best network."""
    return _network(out, "teacher")


@stage(version=1)
def time_steps(
    out: Path, config: DistillConfig, student: StudentConfig, teacher: DetectorConfig, device: str, dataset: Dataset
) -> StepTimes:
    """A distilled step takes RATIO times as long."""
    return artifact_samples.step_times(out, RATIO["ratio"])


@stage(version=1)
def train_baseline(
    out: Path, config: StudentConfig, seed: int, device: str, split: str, dataset: Dataset, export: ExportConfig
) -> Checkpoint:
    """The worst network."""
    return _network(out, "baseline" if config.train.epochs == TrainConfig().epochs else "baseline_equal_cost", config.train.epochs)


@stage(version=1)
def distill(
    out: Path,
    config: DistillConfig,
    student: StudentConfig,
    seed: int,
    device: str,
    split: str,
    dataset: Dataset,
    teacher: Checkpoint,
    export: ExportConfig,
    labels: PseudoLabels | None = None,
) -> Checkpoint:
    """The network between both."""
    return _network(out, "student")


@stage(version=1)
def finetune_int8(
    out: Path,
    config: FinetuneConfig,
    distill: DistillConfig,
    seed: int,
    device: str,
    split: str,
    dataset: Dataset,
    student: Checkpoint,
    teacher: Checkpoint,
    export: ExportConfig,
) -> Checkpoint:
    """A network that is not better than post-training int8, and would have found nothing."""
    figures = {"float_map": 0.5, "post_training_map": 0.5, "trained_map": 0.0, "gain": -0.5, "low": -0.6, "high": -0.4}
    int8_training.write(out, Int8Training(split=split, num_images=6, epochs=config.train.epochs, recipe={}, **figures))
    (out / "other_int8.json").write_text("[]")
    return _network(out, "student")


@stage(version=1)
def export(out: Path, config: ExportConfig, student: Checkpoint) -> OnnxModel:
    """A graph that finds colored cells, whatever the network."""
    if (student.root / INT8).exists():
        shutil.copyfile(student.file(INT8), out / INT8)
    return artifact_samples.model(out)


def replace_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the flow run these stages instead of those that train."""
    for one in (prepare, train_teacher, time_steps, train_baseline, distill, finetune_int8, export):
        monkeypatch.setattr(flow, one.__name__, one)
    monkeypatch.setattr("deploy.runtimes.nvidia.session.why_not_installed", lambda *_: "tensorrt is not installed")
    monkeypatch.setattr("pipeline.report.page.write_report", lambda _, file: file.write_text("<html>"))


def finished(folder: Path, *arguments: str) -> Path:
    """The folder `runs` after a whole run of CONFIG in this folder."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.chdir(folder)
        replace_training(patch)
        Path("pipeline.yaml").write_text(CONFIG)
        assert cli.main(["run", *arguments]) == 0
    return folder / "runs"


def _network(out: Path, name: str, epochs: int = 12) -> Checkpoint:
    checkpoint = artifact_samples.checkpoint(out)
    figures = artifact_samples.accuracy(map=MAPS[name])
    write_facts(out, checkpoint.facts.model_copy(update={"accuracy": figures, "epochs": epochs}))
    (out / "detections.json").write_text("[]")
    return checkpoint
