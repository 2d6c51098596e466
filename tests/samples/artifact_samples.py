"""Artifacts around the hand-made detector of onnx_samples, as the stages would find them in the store."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx_samples
from onnx import ModelProto
from PIL import Image

from deploy import machine
from deploy.bundles.bundle import Bundle, sha256
from deploy.bundles.manifest import MANIFEST, Plan
from deploy.comparison.metrics import Figures
from deploy.comparison.side import Side
from deploy.contract import Accuracy, Latency, NetworkFacts, Percentiles, Ratio
from deploy.latency.measure import Latencies
from deploy.machine.load import Load
from deploy.runtimes import is_raw_only
from stages.artifacts import TABLES, Checkpoint, Dataset, Engine, Measurement, OnnxModel, Report, StepTimes
from stages.config import GateConfig, LatencyConfig, PackageConfig, TargetConfig, ValidationConfig
from stages.datasets.tables import table
from stages.facts import (
    CheckpointFacts,
    DatasetFacts,
    MeasurementFacts,
    OnnxFacts,
    PluginChoice,
    ReportFacts,
    Split,
    StepTimeFacts,
    write_facts,
)
from stages.gate import gate
from stages.optimize import optimize
from stages.package import package

CELL = onnx_samples.CELL
PASSING: Sequence[Mapping[str, Any]] = ({"metric": "map", "min": 0.5}, {"metric": "bytes", "max": 1e9})


def dataset(root: Path, num_images: int = 6) -> Dataset:
    """Splits train and val of black images with colored cells; the first image of each is empty."""
    splits = {}
    for seed, name in enumerate(("train", "val")):
        random = np.random.default_rng(seed)
        folder = root / "images" / name
        folder.mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(num_images):
            cells = {(int(random.integers(4)), int(random.integers(4))): int(random.integers(3)) for _ in range(number % 3)}
            pixels = onnx_samples.picture(cells)
            pixels[-1, -1] = 1  # no image is blank
            Image.fromarray(pixels).save(folder / f"{number}.png")
            images.append({"id": number + 1, "file_name": f"{number}.png", "width": 64, "height": 64})
            for (row, column), label in cells.items():
                box = [column * CELL, row * CELL, CELL, CELL]
                category = onnx_samples.CATEGORY_IDS[label]
                identity = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": category}
                annotations.append({**identity, "bbox": box, "area": CELL * CELL, "iscrowd": 0})
        categories = [{"id": i, "name": n} for i, n in zip(onnx_samples.CATEGORY_IDS, onnx_samples.CLASSES, strict=True)]
        truth = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{name}.json").write_text(json.dumps(truth))
        table.write(root / TABLES / name, truth, {category: label for label, category in enumerate(onnx_samples.CATEGORY_IDS)})
        splits[name] = Split(images=f"images/{name}", annotations=f"{name}.json", num_images=num_images, num_boxes=len(annotations))
    write_facts(root, DatasetFacts(contract=onnx_samples.contract(), splits=splits))
    return Dataset(root)


def model(root: Path, graph: ModelProto | None = None, *, converged: bool = True, raw: bool = False) -> OnnxModel:
    """model.onnx with its facts; the sample, or a graph like it; `raw`: boxes are decoded on the host."""
    root.mkdir(parents=True, exist_ok=True)
    own = onnx_samples.raw_detector() if raw else onnx_samples.detector(converged=converged)
    content = (graph or own).SerializeToString()
    (root / "model.onnx").write_bytes(content)
    facts = OnnxFacts(
        contract=onnx_samples.contract(raw=raw),
        opset=18,
        max_detections=onnx_samples.MAX_DETECTIONS,
        dynamic_batch=True,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        heads=onnx_samples.HEADS,
        network=NetworkFacts(detector="cells", parameters=1234, macs=5_000_000, checkpoint="student"),
    )
    write_facts(root, facts)
    return OnnxModel(root)


def checkpoint(root: Path) -> Checkpoint:
    """The facts of a trained network, without its weights."""
    root.mkdir(parents=True, exist_ok=True)
    facts = CheckpointFacts(
        contract=onnx_samples.contract(),
        detector=PluginChoice(name="cells", options={}),
        parameters=1234,
        macs=5_000_000,
        epochs=1,
        accuracy=accuracy(),
    )
    write_facts(root, facts)
    return Checkpoint(root)


def step_times(root: Path, ratio: float, plain_s: float = 0.1) -> StepTimes:
    """A distilled step takes `ratio` times as long as a plain one, known to 0.02 on either side."""
    root.mkdir(parents=True, exist_ok=True)
    interval = Ratio(ratio=ratio, low=ratio - 0.02, high=ratio + 0.02)
    facts = StepTimeFacts(plain_s=plain_s, distilled_s=plain_s * ratio, ratio=interval, rounds=8, device="cpu", machine=machine.identity())
    write_facts(root, facts)
    return StepTimes(root)


def target(**options: object) -> TargetConfig:
    """A target called `here`."""
    return TargetConfig.model_validate({"name": "here", "runtime": "ort", **options})


def engine(root: Path, config: TargetConfig, *, converged: bool = True, raw: bool = False) -> Engine:
    """The engine that `optimize` builds of the sample."""
    out = root / "engine"
    out.mkdir(parents=True)
    raw = raw or is_raw_only(config.runtime)
    return optimize(out, config, model(root / "model", converged=converged, raw=raw), dataset(root / "data"))


def accuracy(**changes: float | None) -> Accuracy:
    """0.5 everywhere but for the changes; no small object."""
    names = [name for name in Accuracy.model_fields if name.startswith("ma")]
    figures: dict[str, float | None] = {**dict.fromkeys(names, 0.5), "map_small": None, **changes}
    return Accuracy.model_validate({"split": "val", "num_images": 6, "per_class": {"red": 0.5, "green": None}, **figures})


def latency(p99: float = 9.0) -> Latency:
    """Percentiles 1, 2, 3 and `p99` ms everywhere."""
    values = Percentiles(p50=1, p90=2, p95=3, p99=p99)
    return Latency(pre=values, infer=values, post=values, end_to_end=values, num_passes=100, seconds=2)


def report(root: Path, *, why: str | None = None, size: int | None = 1000) -> Report:
    """A report, measured unless there is a reason why not, of an engine of so many bytes."""
    root.mkdir(parents=True, exist_ok=True)
    write_facts(root, report_facts(why=why).model_copy(update={"bytes": size}))
    return Report(root)


def report_facts(*, why: str | None = None, target: str = "here", **changes: float | None) -> ReportFacts:
    """As `report`, without a folder."""
    return ReportFacts(
        target=target,
        runtime="ort",
        precision="fp32",
        accuracy=None if why else accuracy(**changes),
        bytes=1000,
        sha256="0" * 64,
        machine=machine.identity(),
        why=why,
    )


QUIET = Load(other_cores=0.0, load_average=0.0, governor=None, frequency_mhz=None, throttled=0)


def measured(medians: Mapping[str, float], spread: float = 0.01, **changes: Any) -> Latencies:
    """Latencies with these end-to-end medians in ms, and their ratios, known to `spread` on either side."""
    names = [*medians]
    ratio = {(a, b): Ratio(ratio=(r := medians[a] / medians[b]), low=r * (1 - spread), high=r * (1 + spread)) for a in names for b in names}
    found: dict[str, Any] = {
        "latencies": {name: around(median) for name, median in medians.items()},
        "ratios": {a: {b: ratio[a, b] for b in names if b != a} for a in names},
        "rounds": 48,
        "seconds": 20.0,
        "settled": True,
        "drift": 0.0,
        "load": QUIET,
    }
    return Latencies.model_validate({**found, **changes})


def around(median: float) -> Latency:
    """Percentiles around an end-to-end median in ms."""

    def spread(middle: float) -> Percentiles:
        return Percentiles(p50=middle, p90=middle * 1.1, p95=middle * 1.15, p99=middle * 1.3)

    parts = (spread(median * share) for share in (0.1, 0.8, 0.1, 1.0))
    pre, infer, post, end_to_end = parts
    return Latency(pre=pre, infer=infer, post=post, end_to_end=end_to_end, num_passes=400, seconds=median * 0.4)


def measurement(root: Path, latencies: Mapping[str, Latency]) -> Measurement:
    """A measurement with these latencies, without ratios; nothing was measured if there are none."""
    root.mkdir(parents=True, exist_ok=True)
    found = Latencies(latencies=dict(latencies), ratios={}, rounds=48, seconds=20.0, settled=True, drift=0.0, load=QUIET)
    write_facts(root, MeasurementFacts(measured=found if latencies else None, left_out={}, machine=machine.identity()))
    return Measurement(root)


def side(facts: ReportFacts) -> Side:
    """An engine with these figures, which cannot be run."""

    def closed() -> NoReturn:
        raise AssertionError("nothing is run")

    figures = Figures(facts.accuracy, None if facts.why else latency(), facts.bytes)
    return Side(facts.target, figures, onnx_samples.contract(), closed, closed, facts.why, facts.data)


def plan(gates: Sequence[Mapping[str, Any]] = PASSING) -> Plan:
    """The target `here` and another with their gates, measured in an instant."""
    return Plan(
        targets=tuple(one.model_dump(mode="json") for one in (target(), target(name="int8", precision="int8"))),
        gates=tuple(GateConfig.model_validate(one).model_dump(mode="json") for one in gates),
        validation=ValidationConfig(latency=LatencyConfig(warmup=1, min_passes=3, min_seconds=0)).model_dump(mode="json"),
    )


def bundle(
    root: Path, gates: Sequence[Mapping[str, Any]] = PASSING, *, why: str | None = None, built: Engine | None = None, **config: str
) -> Bundle:
    """A bundle of the sample detector with the verdicts of `gates` on a made-up report."""
    out, verdicts = root / "bundle", root / "verdicts"
    out.mkdir(parents=True)
    verdicts.mkdir()
    built = built or engine(root, target())
    reported = report(root / "report", why=why, size=built.facts.bytes)
    chosen = tuple(GateConfig.model_validate(one) for one in gates)
    timed = measurement(root / "measurement", {} if why else {built.facts.target: latency()})
    own = model(root / "model", raw=built.facts.contract.decoding is not None)
    judged = gate(verdicts, chosen, ValidationConfig(), None, built, own, reported, timed, {}, {}, {}, {})
    package(out, PackageConfig(**config), plan(gates), built, own, reported, timed, judged)
    return Bundle.load(out)


def bundle_for_128_px(root: Path) -> Bundle:
    """The sample detector for larger images and with other classes, so that a tensor, an answer or a class list of the usual one shows."""
    made = bundle(root)
    graph = onnx_samples.detector(128).SerializeToString()
    for name in ("engine.onnx", "model.onnx"):
        (made.root / name).write_bytes(graph)
    manifest = json.loads((made.root / MANIFEST).read_text())
    manifest["graph"]["sha256"] = hashlib.sha256(graph).hexdigest()
    manifest["contract"]["preprocessing"] |= {"height": 128, "width": 128}
    manifest["contract"] |= {"category_ids": [13, 17, 190], "classes": ["a", "b", "c"]}
    manifest["accuracy"]["per_class"] = {}
    resign(made.root, manifest)
    return Bundle.load(made.root)


def resign(folder: Path, manifest: Mapping[str, Any], *, measured: bool = True) -> None:
    """Write a manifest with the sha256 that the bundle's files have now; if `measured`, also with the engine's size in its verdicts."""
    files = {name: sha256(folder / name) for name in manifest["files"]}
    size = (folder / manifest["engine"]).stat().st_size if measured and manifest["engine"] else None
    verdicts = [
        {**one, "measured": size} if size is not None and one["metric"] == "bytes" and one["measured"] is not None else one
        for one in manifest["verdicts"]
    ]
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": files, "verdicts": verdicts}))
