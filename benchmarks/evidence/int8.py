"""What training for int8 recovers of what post-training int8 loses, and how many layers each needs in float for the same limit.

    python benchmarks/evidence/int8.py                      print what has been measured
    python benchmarks/evidence/int8.py run [--student NAME ...] [--setting NAME ...] [--seed N ...] [--units N]

Students of three kinds are distilled on digits: FCOS on two mobile backbones, and examples/edge.yaml's RetinaNet at half its size on
fewer images. Each is quantized for ONNX Runtime in five settings, among them four that may lose more: `percentile` and `entropy` ranges,
and ranges from 4 images and from one; and for TensorRT, with signed symmetric integers. A setting other than the default is trained for
only if post-training int8 loses a point in it. mAP is that of split val, on which the stage decides, and of split test, which it does not
see. Each student, setting and seed appends one row to int8.jsonl and is never repeated; an interrupted training resumes. Only one process
may train at a time; pin it with OMP_NUM_THREADS=1 taskset -c 1 ...
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from run import hashed
from turns import alone

from deploy.engines import int8_training
from deploy.errors import BuildError
from pipeline.config import PipelineConfig, load
from pipeline.results.gains import paired_gain
from pipeline.results.table import grid, number
from pipeline.store.store import Store
from stages.artifacts import Checkpoint, Dataset, OnnxModel
from stages.config import TargetConfig
from stages.distill import distill
from stages.export import export
from stages.finetune_int8 import finetune_int8
from stages.measurement.calibration_images import CalibrationImages
from stages.measurement.splits import labeled_split
from stages.optimize import optimize
from stages.prepare import prepare
from stages.train import train_teacher

if TYPE_CHECKING:
    from stages.int8.forms import Int8Forms

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "runs" / "evidence"
ROWS = Path(__file__).with_name("int8.jsonl")
LIMIT = 0.01
DEFAULT = "default"
NOTABLE = 0.01
"""A loss of this much mAP by post-training int8 is worth recovering."""

_SMALL = "fpn_channels: 64, strides: [8, 16, 32], head_convs: 1, range_scale: 0.5"
_EPOCHS = "student.train.epochs=5"
EDGE = (
    *(f"data.{key}=160" for key in ("image_size", "preprocessing.height", "preprocessing.width")),
    *("data.max_digits=5", "data.train_images=1000", "data.val_images=300", "teacher.train.epochs=3"),
)
STUDENTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "mobile": ("pipeline.yaml", (f"student.detector={{name: fcos, backbone: mobilenet_v3_small, {_SMALL}}}", _EPOCHS)),
    "lite": (
        "pipeline.yaml",
        (f"student.detector={{name: fcos, backbone: 'timm:efficientnet_lite0', {_SMALL}}}", "student.train.epochs=5"),
    ),
    "edge": ("examples/edge.yaml", EDGE),
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    DEFAULT: {},
    "percentile": {"ranges": "percentile"},
    "entropy": {"ranges": "entropy"},
    "4 images": {"calibration_images": 4},
    "1 image": {"calibration_images": 1},
    "tensorrt": {"runtime": "trt_rtx", "compute_capability": 8.9},
}
TRAINING: Mapping[str, Any] = {"finetune": True, "epochs": 1, "learning_rate": 1e-4}
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Int8Unit:
    """A student in a setting."""

    student: str
    setting: str
    seed: int

    @property
    def config(self) -> PipelineConfig:
        """Its pipeline."""
        file, settings = STUDENTS[self.student]
        return load(ROOT / file, settings)

    @property
    def digest(self) -> str:
        """Hash of everything that its figures depend on."""
        config = self.config
        sections = (config.data, config.teacher, config.student, config.distill, config.export, config.validation)
        given = [config.seed, *(hashed(one) for one in sections)]
        parts = [self.student, given, SETTINGS[self.setting], dict(TRAINING), LIMIT, self.seed]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def target(self, **options: Any) -> TargetConfig:
        """Its target."""
        own = {"name": "int8", "runtime": "ort", "precision": "int8", **SETTINGS[self.setting], **options}
        return TargetConfig.model_validate(own)


def units() -> Iterator[Int8Unit]:
    """Every unit, seed by seed."""
    for seed in SEEDS:
        yield from (Int8Unit(student, setting, seed) for student in STUDENTS for setting in SETTINGS)


def measured() -> list[dict[str, Any]]:
    """The rows that were measured with the current configuration."""
    known = {unit.digest for unit in units()}
    every = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()] if ROWS.exists() else []
    return [row for row in every if row["digest"] in known]


def measure(unit: Int8Unit) -> dict[str, Any]:
    """Train, quantize both ways, and search layers to return to float from both; its row."""
    config, store = unit.config, Store(RUNS, f"int8-{unit.student}", say=print)
    dataset = store.run(prepare, config.data)
    split, device, decisions = config.validation.split, "cpu", config.export.decisions
    teacher = store.run(train_teacher, config.teacher, config.seed, device, split, dataset, decisions)
    student = store.run(distill, config.distill, config.student, unit.seed, device, split, dataset, teacher, decisions)
    how = unit.target(int8=dict(TRAINING)).finetuning(config.student.train)
    assert how is not None
    if unit.setting != DEFAULT:
        plainly = post_training(unit, student, dataset, split)
        if student.facts.accuracy.map - plainly["post_training_map"] < NOTABLE:
            return {"student": unit.student, "setting": unit.setting, "seed": unit.seed, **plainly, "digest": unit.digest}
    tuned = store.at(unit.setting).run(
        finetune_int8, how, config.distill, unit.seed, device, split, dataset, student, teacher, config.export
    )
    plain, trained = (store.run(export, config.export, one) for one in (student, tuned))
    found = int8_training.read(tuned.root)
    assert found is not None
    layers = {
        "layers_post_training": float_layers(store, unit, plain, dataset, split, None),
        "layers_trained": float_layers(store, unit, trained, dataset, split, plain),
    }
    row = {"student": unit.student, "setting": unit.setting, "seed": unit.seed, **found.figures.model_dump(), **layers}
    return {**row, **on_test(unit, student, tuned, dataset), "digest": unit.digest}


def post_training(unit: Int8Unit, student: Checkpoint, dataset: Dataset, split: str) -> dict[str, Any]:
    """The figures of a student that is not trained for int8."""
    images = labeled_split(dataset, split)
    with TemporaryDirectory() as scratch:
        forms = calibrated(unit, student, dataset, Path(scratch))
        found = forms.judged(forms.post_training, images, "post-training int8").accuracy.map
    own = {"split": split, "num_images": len(images.images), "float_map": student.facts.accuracy.map, "post_training_map": found}
    return {**own, "trained_map": None, **dict.fromkeys(LAYERS), "kept": False}


def calibrated(unit: Int8Unit, student: Checkpoint, dataset: Dataset, scratch: Path) -> "Int8Forms":
    """The student's int8 graphs."""
    from stages.int8.forms import Int8Forms
    from stages.training.checkpoint import load_detector

    how = unit.target(int8=dict(TRAINING)).finetuning(unit.config.student.train)
    assert how is not None
    forms = Int8Forms(load_detector(student), how, unit.config.export, student.facts.contract, scratch)
    forms.calibrate(CalibrationImages(dataset, how, student.facts.contract.preprocessing))
    return forms


def on_test(unit: Int8Unit, student: Checkpoint, tuned: Checkpoint, dataset: Dataset) -> dict[str, float | None]:
    """mAP of both int8 graphs on split test, which decided nothing; that of the trained one is null if it was not kept."""
    from stages.training.checkpoint import load_detector

    known = int8_training.read(tuned.root)
    with TemporaryDirectory() as scratch:
        forms = calibrated(unit, student, dataset, Path(scratch))
        images = labeled_split(dataset, "test")
        found = {"test_post_training_map": forms.judged(forms.post_training, images, "post-training int8").accuracy.map}
        graph = forms.trained(load_detector(tuned)) if known is not None and known.kept else None
        found["test_trained_map"] = None if graph is None else forms.judged(graph, images, "trained int8").accuracy.map
    return found


def float_layers(store: Store, unit: Int8Unit, model: OnnxModel, dataset: Dataset, split: str, reference: OnnxModel | None) -> int | None:
    """How many layers return to float within LIMIT of fp32's mAP; null if no number suffices."""
    try:
        engine = store.at(unit.setting).run(optimize, unit.target(max_map_drop=LIMIT), model, dataset, split, None, reference)
    except BuildError:
        return None
    assert engine.facts.fallback is not None
    return len(engine.facts.fallback.float_layers)


def work(args: argparse.Namespace) -> None:
    """Measure the missing rows, at most `--units` of them."""
    done, known = 0, {row["digest"] for row in measured()}
    for unit in units():
        wanted = (not args.student or unit.student in args.student) and (not args.setting or unit.setting in args.setting)
        if not wanted or unit.digest in known or (args.seed and unit.seed not in args.seed) or done == args.units:
            continue
        row = measure(unit)
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        done += 1


def show() -> None:
    """Means over the seeds, and what the training recovers of the loss, with paired intervals in points."""
    header = ["student", "setting", "seeds", "fp32", "post-training", "trained", "gain, points", "recovered", "layers", "layers trained"]
    rows = []
    for student in STUDENTS:
        for setting in SETTINGS:
            own = [row for row in measured() if (row["student"], row["setting"]) == (student, setting)]
            if own:
                rows.append([student, setting, str(len(own)), *summary(own)])
    print(grid(header, rows) if rows else "nothing has been measured")


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A setting's cells."""
    exact, post, trained = ([row[key] for row in rows] for key in ("float_map", "post_training_map", "trained_map"))
    if None in trained:
        lost = [before - after for before, after, found in zip(exact, post, trained, strict=True) if found is not None]
        recover = "nothing to recover" if all(one < NOTABLE for one in lost) else "not all seeds were trained for int8"
        return [number(sum(values) / len(rows)) for values in (exact, post)] + ["", "", recover, "", ""]
    gain = paired_gain(trained, post)
    ends = "" if gain.low is None or gain.high is None else f" ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    lost = (sum(exact) - sum(post)) / len(rows)
    recovered = f"{gain.mean / lost:.0%}" if lost >= NOTABLE else "nothing to recover"
    layers = [", ".join("none suffice" if row[key] is None else str(row[key]) for row in rows) for key in LAYERS]
    means = [number(sum(values) / len(rows)) for values in (exact, post, trained)]
    return [*means, f"{100 * gain.mean:+.1f}{ends}", recovered, *layers]


LAYERS = ("layers_post_training", "layers_trained")


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("show", "run"), default="show")
    parser.add_argument("--student", nargs="+", default=[], choices=tuple(STUDENTS))
    parser.add_argument("--setting", nargs="+", default=[], choices=tuple(SETTINGS))
    parser.add_argument("--seed", nargs="+", type=int, default=[])
    parser.add_argument("--units", type=int, default=-1, help="stop after N rows (default: no limit)")
    args = parser.parse_args()
    if args.action == "show":
        show()
        return
    with alone(RUNS):
        work(args)


if __name__ == "__main__":
    main()
