"""Train the student for a target's int8: rounded in torch where the quantizer rounds, and kept only if that is better."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from deploy.accuracy.matches import match
from deploy.comparison.bootstrap import lead
from deploy.engines import int8_training
from deploy.engines.int8_training import Int8Training
from stages.artifacts import DETECTIONS, OTHER_INT8, WEIGHTS, Checkpoint, Dataset
from stages.config import DetectorConfig, DistillConfig, ExportConfig, FinetuneConfig
from stages.facts import write_facts
from stages.measurement.calibration_images import CalibrationImages
from stages.measurement.splits import labeled_split
from stages.stage import stage

if TYPE_CHECKING:
    from deploy.accuracy.judge import Judged
    from deploy.comparison.interval import Effect
    from stages.detectors import Detector
    from stages.int8.forms import Int8Forms


@stage(version=2, resumable=True, distributed=True)
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
    """The student trained for int8 with its ranges in int8.json, or as it is if post-training int8 is as good on `split`.

    Its accuracy is that of its int8 graph. What the int8 graph that is not kept finds goes to other_int8.json.

    Raises:
        ConfigError: a loss cannot be built; the detector cannot be trained for int8.
        BuildError: the student's graph cannot be exported or quantized.
        DataError: the data has no such split, or nothing to read ranges from.
        ArtifactError: a loss is not finite, or an answer is invalid.
    """
    # Imported here: a stage that is reused, or judged on a machine without torch, must not import torch.
    from stages.int8.forms import Int8Forms
    from stages.processes import is_main_process
    from stages.training.checkpoint import load_detector
    from stages.training.saved_state import discard

    dataset.table(split)  # a missing or empty split is refused before the training, not after it
    images = CalibrationImages(dataset, config, student.facts.contract.preprocessing)
    with TemporaryDirectory() as scratch:
        forms = Int8Forms(load_detector(student), config, export, student.facts.contract, Path(scratch))
        forms.calibrate(images)
        trained = None
        if config.train.epochs and config.train.num_steps(dataset.facts.splits["train"].num_images):
            given = out, config, distill, seed, device, dataset, student, teacher, export
            trained = _trained(*given, forms, images)
        if is_main_process():
            _decide(out, config, forms, trained, student, dataset, split, export)
            discard(out)
    return Checkpoint(out)


def _trained(
    out: Path,
    config: FinetuneConfig,
    distill: DistillConfig,
    seed: int,
    device: str,
    dataset: Dataset,
    student: Checkpoint,
    teacher: Checkpoint,
    export: ExportConfig,
    forms: "Int8Forms",
    images: CalibrationImages,
) -> "Detector":
    import torch

    from stages.int8.rounded import rounded_detector
    from stages.int8.task import task
    from stages.training.checkpoint import load_detector
    from stages.training.loop import Trainer

    detector, rounding = rounded_detector(load_detector(student), forms, export, images)
    others = load_detector(teacher), load_detector(student)
    learning = task(detector, *others, distill.labeled, config.losses, rounding, config.weight, seed)
    trainer = Trainer(learning, dataset, config.train, seed=seed, device=device, folder=out, label="finetune_int8")
    return trainer.run().cpu().to(memory_format=torch.contiguous_format)  # a graph has other tensors if weights have channels last


def _decide(
    out: Path,
    config: FinetuneConfig,
    forms: "Int8Forms",
    trained: "Detector | None",
    student: Checkpoint,
    dataset: Dataset,
    split: str,
    export: ExportConfig,
) -> None:
    """Judge both int8 graphs on the split, and write the network that is kept."""
    from stages.measurement.torch_accuracy import graph_options
    from stages.training.checkpoint import save

    images = labeled_split(dataset, split)
    before = forms.judged(forms.post_training, images, "post-training int8")
    after = None if trained is None else forms.judged(forms.trained(trained), images, "trained int8")
    effect = None if after is None else lead(match(images.truth, after.detections), match(images.truth, before.detections))
    kept = is_better(effect)
    figures: dict[str, Any] = {} if effect is None else {"low": effect.low, "high": effect.high}
    if after is not None and after.accuracy.map is not None and before.accuracy.map is not None:
        figures["gain"] = after.accuracy.map - before.accuracy.map
    training = Int8Training(
        split=split,
        num_images=len(images.images),
        epochs=config.train.epochs,
        float_map=student.facts.accuracy.map,
        post_training_map=before.accuracy.map,
        trained_map=None if after is None else after.accuracy.map,
        kept=kept,
        recipe=asdict(config.recipe),
        ranges=dict(forms.ranges) if kept else {},
        **figures,
    )
    int8_training.write(out, training)
    facts, options = student.facts, graph_options(export)
    if kept and trained is not None and after is not None:
        choice = DetectorConfig.model_validate({"name": facts.detector.name, **facts.detector.options})
        save(out, trained, choice, facts.contract, facts.epochs + config.train.epochs, after.accuracy, options)
        _write(out, after, before)
        return
    shutil.copyfile(student.file(WEIGHTS), out / WEIGHTS)
    write_facts(out, facts)
    _write(out, before, after)


def is_better(effect: "Effect | None") -> bool:
    """Whether the trained int8 graph is kept: the whole interval of its lead is above 0."""
    return effect is not None and effect.low > 0


def _write(out: Path, kept: "Judged", other: "Judged | None") -> None:
    (out / DETECTIONS).write_text(json.dumps(kept.detections), encoding="utf-8")
    if other is not None:
        (out / OTHER_INT8).write_text(json.dumps(other.detections), encoding="utf-8")
