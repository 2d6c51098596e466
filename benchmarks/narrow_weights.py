"""mAP of OpenVINO's int8 engines with 8-bit and with 7-bit weights, with and without VNNI: a table of docs/engines.md.

Three students are trained without a teacher on digits (minutes on one core, kept in runs/ and not repeated): pipeline.yaml's, the same
detector on a mobile backbone, and examples/edge.yaml's at half its size on fewer images. ONEDNN_MAX_CPU_ISA limits the instructions
in a process of its own, on CPUs with AVX-512 only.
Usage: python benchmarks/narrow_weights.py
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.accuracy.judge import judge
from deploy.engines.builder import Builder, TypedGraphs
from deploy.engines.request import BuildRequest, GraphSource
from deploy.precision import Precision
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import openvino
from pipeline.config import load
from pipeline.store.store import Store
from stages.artifacts import ONNX
from stages.config import TargetConfig
from stages.export import export
from stages.measurement.calibration_images import CalibrationImages
from stages.measurement.splits import labeled_split
from stages.prepare import prepare
from stages.train import train_baseline

ROOT = Path(__file__).parents[1]
MOBILE = "{name: fcos, backbone: mobilenet_v3_small, fpn_channels: 64, strides: [8, 16, 32], head_convs: 1, range_scale: 0.5}"
EDGE = (
    *(f"data.{key}=160" for key in ("image_size", "preprocessing.height", "preprocessing.width")),
    *("data.max_digits=5", "data.train_images=1000", "data.val_images=300"),
)
STUDENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "default": ("pipeline.yaml", ()),
    "mobile": ("pipeline.yaml", (f"student.detector={MOBILE}", "student.train.epochs=5")),
    "edge": ("examples/edge.yaml", EDGE),
}
INSTRUCTIONS = ("ALL", "AVX512_CORE")
KINDS: dict[str, tuple[Precision, bool]] = {"fp32": ("fp32", False), "8 bits": ("int8", False), "7 bits": ("int8", True)}


def maps(student: str) -> dict[str, float | None]:
    """mAP of each kind of engine in this process."""
    file, settings = STUDENTS[student]
    config, store = load(ROOT / file, settings), Store(ROOT / "runs", f"benchmark-narrow-{student}")
    dataset = store.run(prepare, config.data)
    split = config.validation.split
    trained = store.run(train_baseline, config.student, config.seed, "cpu", split, dataset, config.export.decisions)
    model = store.run(export, config.export, trained)
    facts, found = model.facts, {}
    target = TargetConfig.model_validate({"name": "int8", "runtime": "openvino", "precision": "int8"})
    images = CalibrationImages(dataset, target, facts.contract.preprocessing)
    for kind, (precision, narrow) in KINDS.items():
        openvino.INTEGERS = replace(openvino.INTEGERS, narrow_weights=narrow)
        with TemporaryDirectory() as scratch:
            graphs = TypedGraphs(GraphSource(model.file(ONNX), facts.heads, facts.contract, images), "min_max", Path(scratch))
            built = Builder(graphs, BuildRequest("openvino", precision)).compiled(precision)
            with openvino.open(built.file) as session:
                found[kind] = judge(SessionPredictor(session, facts.contract), labeled_split(dataset, split), kind).accuracy.map
    return found


def main() -> None:
    """Print a row per student and set of instructions, and all of them as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", choices=tuple(STUDENTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.student is not None:
        print(json.dumps(maps(args.student)))
        return
    rows = []
    for student in STUDENTS:
        for instructions in INSTRUCTIONS:
            environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
            command = [sys.executable, "-P", __file__, "--student", student]
            answer = subprocess.run(  # noqa: S603 - this script
                command, env=environment, capture_output=True, text=True, check=True
            )
            rows.append({"student": student, "instructions": instructions, **json.loads(answer.stdout.splitlines()[-1])})
            print(rows[-1])
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
