"""A whole run as the flow returns it, its figures made up but consistent: detections are the ground truth, more or less spoiled."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import artifact_samples
import numpy as np
from PIL import Image

from deploy.accuracy import coco
from deploy.accuracy.drift import drift
from deploy.contract import ModelContract, Preprocessing
from pipeline.baselines import Baselines
from pipeline.config import PipelineConfig
from pipeline.run_result import RunResult, TargetResult
from pipeline.store.store import StageRecord
from stages.artifacts import TABLES, Checkpoint, Dataset, Engine, Gains, Measurement, OnnxModel, Package, Parity, Report, read_json
from stages.compare import compare
from stages.config import GateConfig, TargetConfig, ValidationConfig
from stages.datasets.tables import table
from stages.facts import (
    CheckpointFacts,
    DatasetFacts,
    EngineFacts,
    MeasurementFacts,
    ParityFacts,
    ParityStep,
    PluginChoice,
    ReportFacts,
    Split,
    write_facts,
)
from stages.gate import gate
from stages.notes import Note
from stages.parity import culprit

TEACHER, BASELINE, LONGER, STUDENT = 0.88, 0.6, 0.65, 0.7
TERMS = ("loss", "classification", "bbox_regression", "bbox_ctrness")
WHY = "tensorrt_rtx is not installed; pip install 'edgedistill[tensorrt-rtx]'"
TARGETS: Sequence[Mapping[str, Any]] = (
    {"name": "cpu-fp32", "runtime": "ort", "precision": "fp32"},
    {"name": "cpu-int8", "runtime": "ort", "precision": "int8"},
    {"name": "gpu-fp16", "runtime": "trt_rtx", "precision": "fp16", "compute_capability": "8.9"},
)
GATES: Sequence[Mapping[str, Any]] = (
    {"name": "accuracy", "metric": "map", "min": 0.3},
    {"name": "speed", "metric": "latency_end_to_end_p99_ms", "max": 5, "target": "cpu-int8"},
)
LATENCY_MS = {"teacher": 41.0, "baseline": 6.4, "cpu-fp32": 6.5, "cpu-int8": 3.6}
BYTES = {"teacher": 44_800_000, "baseline": 1_550_000, "cpu-fp32": 1_550_000, "cpu-int8": 462_000}


def dataset(root: Path, classes: Sequence[str] = ("cat", "dog", "owl"), num_images: int = 8, size: tuple[int, int] = (96, 64)) -> Dataset:
    """One split val: colored rectangles on gray; the last image has none, the second has a crowd."""
    random = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, num_images + 1):
        pixels = np.full((size[1], size[0], 3), 90, np.uint8)
        for _ in range(0 if number == num_images else 3):
            x, y = int(random.integers(0, size[0] - 30)), int(random.integers(0, size[1] - 30))
            width, height = (int(v) for v in random.integers(14, 30, 2))
            category = int(random.integers(len(classes)))
            pixels[y : y + height, x : x + width] = (60 + 40 * category % 190, 200 - 30 * category % 190, 120)
            box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": int(number == 2)}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category * 2 + 1, **box})
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]})
    ids = tuple(range(1, 2 * len(classes), 2))
    truth = {"images": images, "annotations": annotations, "categories": [{"id": i, "name": n} for i, n in zip(ids, classes, strict=True)]}
    (root / "val.json").write_text(json.dumps(truth))
    table.write(root / TABLES / "val", truth, {category: label for label, category in enumerate(ids)})
    contract = ModelContract(preprocessing=Preprocessing(height=64, width=96), classes=tuple(classes), category_ids=ids)
    splits = {"val": Split(images="images", annotations="val.json", num_images=num_images, num_boxes=len(annotations))}
    where = "annotation 20 of 3.png, bbox [4, 4, 0, 9]"
    box = {"kind": "degenerate box", "action": "left out", "unit": "boxes", "split": "val", "count": 1, "total": len(annotations) + 1}
    notes = (Note.model_validate({**box, "examples": (where,), "images": ("3.png",)}),)
    write_facts(root, DatasetFacts(contract=contract, splits=splits, notes=notes))
    return Dataset(root)


def run(
    root: Path,
    data: Dataset,
    *,
    epochs: int = 8,
    targets: Sequence[Mapping[str, Any]] = TARGETS,
    gates: Sequence[Mapping[str, Any]] = GATES,
) -> RunResult:
    """A run over a data set; the third target of TARGETS is not measured."""
    config = PipelineConfig.model_validate(
        {
            "name": "sample",
            "data": {"dataset": "digits"},
            "teacher": {"detector": {"name": "fcos"}},
            "student": {"detector": {"name": "fcos"}},
            "distill": {"losses": [{"name": "attention"}]},
            "targets": list(targets),
            "gates": list(gates),
        }
    )
    truth = read_json(data.annotations("val"))
    results = {quality: detections(truth, quality) for quality in (TEACHER, BASELINE, LONGER, STUDENT)}
    teacher = checkpoint(root / "teacher", data, truth, results[TEACHER], 11_230_000, epochs, distilled=False)
    baseline = checkpoint(root / "baseline", data, truth, results[BASELINE], 391_000, epochs, distilled=False)
    longer = checkpoint(root / "longer", data, truth, results[LONGER], 391_000, round(1.5 * epochs), distilled=False)
    student = checkpoint(root / "student", data, truth, results[STUDENT], 391_000, epochs, distilled=True)
    write_attention(student.root, data, truth)
    made = tuple(target_result(root, one, config.gates_of(one.name), data, truth, results[STUDENT]) for one in config.targets)
    plain = {name: TargetConfig.model_validate({"name": name, "runtime": "ort"}) for name in ("teacher", "baseline")}
    references = {
        "teacher": report(root / "report-teacher", plain["teacher"], data, truth, results[TEACHER]),
        "baseline": report(root / "report-baseline", plain["baseline"], data, truth, results[LONGER]),
    }
    timed = measurement(root / "measurement", config)
    baselines = Baselines(baseline, longer, artifact_samples.step_times(root / "times", 1.5))
    gains = compared(root / "gains", data, teacher, student, baselines)
    return RunResult(config, data, teacher, baselines, student, gains, OnnxModel(root), made, references, timed, records(config))


def compared(root: Path, data: Dataset, teacher: Checkpoint, student: Checkpoint, baselines: Baselines) -> Gains:
    """What compare writes."""
    return compare(folder(root), data, teacher, student, baselines.by_equal, baselines.times, baselines.left_out)


def measurement(root: Path, config: PipelineConfig) -> Measurement:
    """What measure writes: the latencies of LATENCY_MS; the graph as exported is as fast as the fp32 engine."""
    root.mkdir(parents=True, exist_ok=True)
    names = {"teacher", "baseline", *(target.name for target in config.targets)} & LATENCY_MS.keys()
    medians = {name: LATENCY_MS[name] for name in LATENCY_MS if name in names} | {"float": LATENCY_MS["cpu-fp32"]}
    machine = {"platform": "Linux x86_64", "cpu": "Imagined 3000", "cores": "2"}
    left_out = {target.name: WHY for target in config.targets if target.name not in LATENCY_MS}
    write_facts(root, MeasurementFacts(measured=artifact_samples.measured(medians), left_out=left_out, machine=machine))
    return Measurement(root)


def detections(truth: Mapping[str, Any], quality: float) -> list[dict[str, Any]]:
    """COCO results: of each object, found as often as `quality` says, moved and confused as often as not."""
    random = np.random.default_rng(int(quality * 100))
    categories = [category["id"] for category in truth["categories"]]
    found = []
    for row in truth["annotations"]:
        x, y, width, height = np.array(row["bbox"]) + random.normal(0, (1 - quality) * 0.22, 4) * np.tile(row["bbox"][2:], 2)
        sure = random.random() < quality + 0.12
        category = row["category_id"] if sure else int(random.choice(categories))
        score = float(np.clip(random.normal(0.35 + 0.4 * quality * sure, 0.14), 0.06, 0.98))
        found.append({"image_id": row["image_id"], "category_id": category, "bbox": [x, y, max(width, 1), max(height, 1)], "score": score})
    return [{**row, "bbox": [float(v) for v in row["bbox"]]} for row in found]


def checkpoint(
    root: Path, data: Dataset, truth: Mapping[str, Any], results: list[dict[str, Any]], parameters: int, epochs: int, *, distilled: bool
) -> Checkpoint:
    """A trained network that found `results`."""
    root.mkdir(parents=True)
    contract = data.facts.contract
    accuracy = coco.evaluate(truth, results, "val", contract.classes)[0]
    detector = PluginChoice(name="fcos", options={})
    facts = CheckpointFacts(
        contract=contract, detector=detector, parameters=parameters, macs=parameters * 90, epochs=epochs, accuracy=accuracy
    )
    write_facts(root, facts)
    (root / "detections.json").write_text(json.dumps(results))
    derived = ("attention/feature/8", "weighted/attention/feature/8", "share/task", "share/attention/feature")
    names = (*TERMS, *derived, "grad_norm") if distilled else (*TERMS, "grad_norm")
    random = np.random.default_rng(parameters + distilled)
    with (root / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("epoch", *names, "learning_rate", "images_per_s"))
        for epoch in range(1, epochs + 1):
            values = [(3 - 0.3 * i) * epoch**-0.6 + random.random() * 0.08 for i in range(len(names))]
            writer.writerow((epoch, *values, 1e-3 * (1 + np.cos(np.pi * epoch / epochs)) / 2, 60 if parameters > 1e6 else 170))
    return Checkpoint(root)


def write_attention(root: Path, data: Dataset, truth: Mapping[str, Any], num_images: int = 6) -> None:
    """attention.npz: bumps over the objects, the student's less sharp, with noise."""
    preprocessing = data.facts.contract.preprocessing
    rows, columns = np.mgrid[0 : preprocessing.height : 8, 0 : preprocessing.width : 8] + 4
    images = truth["images"][:num_images]
    maps: dict[str, list[Any]] = {"teacher": [], "student": []}
    random = np.random.default_rng(5)
    for image in images:
        boxes = [row["bbox"] for row in truth["annotations"] if row["image_id"] == image["id"]]
        for name, spread in (("teacher", 0.35), ("student", 0.5)):
            bumps = [
                np.exp(-(((columns - x - w / 2) / (w * spread)) ** 2 + ((rows - y - h / 2) / (h * spread)) ** 2)) for x, y, w, h in boxes
            ]
            maps[name].append(sum(bumps, np.zeros(rows.shape)) + random.random(rows.shape) * spread * 0.5)
    arrays = {name: np.array(values, np.float32) for name, values in maps.items()}
    np.savez_compressed(
        root / "attention.npz", image_ids=np.array([image["id"] for image in images]), teacher=arrays["teacher"], student=arrays["student"]
    )


def target_result(
    root: Path, target: TargetConfig, gates: tuple[GateConfig, ...], data: Dataset, truth: Mapping[str, Any], results: list[dict[str, Any]]
) -> TargetResult:
    """A target's engine, report and verdicts; without latency in LATENCY_MS it is not measured."""
    engine = Engine(folder(root / f"engine-{target.name}"))
    measured = target.name in LATENCY_MS
    facts = EngineFacts(
        target=target.name,
        runtime=target.runtime,
        precision=target.precision,
        options={},
        required=False,
        contract=data.facts.contract,
        file="model.onnx" if measured else None,
        typed="model.onnx" if measured else None,
        sha256="c0ffee" * 10 + "c0de" if measured else None,
        bytes=BYTES.get(target.name),
        onnx_sha256="ab" * 32,
        fingerprint={"runtime": target.runtime, "version": "1.23.0"},
        proof={},
        why=None if measured else WHY,
    )
    write_facts(engine.root, facts)
    less = detections(truth, STUDENT - 0.02) if target.precision == "int8" else results
    measured_report = report(root / f"report-{target.name}", target, data, truth, less)
    model = artifact_samples.model(root / f"model-{target.name}")
    timed = artifact_samples.measurement(
        root / f"measurement-{target.name}", {target.name: artifact_samples.around(LATENCY_MS[target.name])} if measured else {}
    )
    judged: Any = (ValidationConfig(), None, engine, model, measured_report, timed, {}, {}, {}, {})
    verdicts = gate(folder(root / f"gate-{target.name}"), gates, *judged)
    passed = parity(folder(root / f"parity-{target.name}"), facts, data, truth, (results, less))
    return TargetResult(target, engine, measured_report, passed, verdicts, Package(root))


def parity(
    root: Path, engine: EngineFacts, data: Dataset, truth: Mapping[str, Any], results: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> Parity:
    """What parity writes: from torch to the graph nothing changes, in the engine's precision some; a half tensor comes near its limit."""
    forms: list[tuple[Literal["student", "onnx", "typed", "engine"], str, list[dict[str, Any]]]] = [
        ("student", "torch", results[0]),
        ("onnx", "ONNX Runtime, not optimized", results[0]),
    ]
    if engine.precision != "fp32":
        forms.append(("typed", "ONNX Runtime, not optimized", results[1]))
    if engine.why is None:
        forms.append(("engine", f"{engine.runtime} {engine.precision}", results[1]))
    steps = []
    for index, (name, how, found) in enumerate(forms):
        accuracy, _ = coco.evaluate(truth, found, "val", data.facts.contract.classes)
        moved = drift(forms[index - 1][2], found) if index else None
        largest = {"add_3": 61_000.0, "mul_1": 12.5} if engine.precision == "fp16" and name == "typed" else {}
        steps.append(ParityStep(name=name, how=how, map=accuracy.map, map_50=accuracy.map_50, drift=moved, largest=largest))
    write_facts(
        root, ParityFacts(target=engine.target, split="val", num_images=8, steps=tuple(steps), culprit=culprit(steps), why=engine.why)
    )
    return Parity(root)


def report(root: Path, target: TargetConfig, data: Dataset, truth: Mapping[str, Any], results: list[dict[str, Any]]) -> Report:
    """What validate writes."""
    accuracy, curves = coco.evaluate(truth, results, "val", data.facts.contract.classes)
    median = LATENCY_MS.get(target.name)
    facts = ReportFacts(
        target=target.name,
        runtime=target.runtime,
        precision=target.precision,
        accuracy=accuracy if median else None,
        bytes=BYTES.get(target.name),
        sha256="c0ffee" * 10 + "c0de" if median else None,
        machine={"platform": "Linux x86_64", "cpu": "Imagined 3000", "cores": "2"},
        why=None if median else WHY,
    )
    write_facts(folder(root), facts)
    if median:
        (root / "curves.json").write_text(json.dumps(curves))
    return Report(root)


def records(config: PipelineConfig) -> tuple[StageRecord, ...]:
    """One record a stage instance; preparation was reused."""
    once = {"prepare": 20.4, "train_teacher": 251.0, "train_baseline": 118.2, "distill": 187.9, "export": 4.1}
    each = {"optimize": 2.4, "validate": 14.8, "parity": 6.1, "gate": 0.01, "package": 0.3}
    rows = [(name, name, seconds) for name, seconds in once.items()]
    rows += [(name, f"{name}:{target.name}", seconds) for name, seconds in each.items() for target in config.targets]
    return tuple(
        StageRecord(name, instance, f"{name}-0123456789abcdef", seconds, name == "prepare", None if name == "prepare" else "never ran")
        for name, instance, seconds in rows
    )


def without_measurements(result: RunResult) -> RunResult:
    """The same run where no engine could be measured."""
    reports = [*result.references.values(), *(target.report for target in result.targets)]
    for one in reports:
        write_facts(one.root, one.facts.model_copy(update={"accuracy": None, "why": WHY}))
    left_out = dict.fromkeys(("teacher", "baseline", "float", *(target.config.name for target in result.targets)), WHY)
    blank = {"measured": None, "left_out": left_out}
    write_facts(result.measurement.root, result.measurement.facts.model_copy(update=blank))
    return replace(result, targets=result.targets)


def folder(path: Path) -> Path:
    """The folder, made now."""
    path.mkdir(parents=True)
    return path
