"""Milliseconds an image: the exported fixed-shape engine against torchvision's own eager FCOS with the same weights.

Both take the same decoded photograph (generated here, so that nothing need be trained or found) and end with boxes in its
pixels. Repeats are interleaved; medians are compared. Usage: python benchmarks/inference.py [--repeats N] [--threads N]
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from deploy import plugins
from deploy.contract import Accuracy, ModelContract, Preprocessing
from deploy.predictor import Predictor
from stages.artifacts import Checkpoint
from stages.checkpoint import build_detector, save
from stages.config import DetectorConfig, ExportConfig
from stages.detectors.fcos import FcosDetector
from stages.onnx_graph import MODEL, write

SIZE = 320
CHOICE = {"name": "fcos", "backbone": "resnet18", "width": 32, "fpn_channels": 64, "head_convs": 2}


def rivals(folder: Path, threads: int) -> dict[str, Callable[[NDArray[np.uint8]], object]]:
    """The engine and the eager model, the same weights in both, each from a decoded image to its boxes."""
    choice = DetectorConfig.model_validate(CHOICE)
    contract = ModelContract(
        preprocessing=Preprocessing(height=SIZE, width=SIZE), classes=tuple("0123456789"), category_ids=tuple(range(10))
    )
    detector = build_detector(choice, 10)
    assert isinstance(detector, FcosDetector)
    unknown = {name: None for name in Accuracy.model_fields if name.startswith("ma")}
    save(folder, detector, choice, contract, 0, Accuracy(split="none", num_images=0, per_class={}, **unknown))
    write(folder, ExportConfig(), Checkpoint(folder))
    session = plugins.load("deploy.runtimes", "ort").open(folder / MODEL, threads=threads)
    engine = Predictor(session, contract)
    eager = copy.deepcopy(detector.model).eval()
    eager.transform.min_size, eager.transform.max_size = (SIZE,), SIZE
    eager.topk_candidates, eager.score_thresh = ExportConfig().candidates, ExportConfig().score_threshold

    def run_eager(image: NDArray[np.uint8]) -> object:
        with torch.no_grad():
            return eager([torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)])

    return {"edgedistill": engine.detect, "torchvision_eager": run_eager}


def main() -> None:
    """Print medians, the ratio and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = rivals(Path(folder), args.threads)
        for repeat in range(args.repeats + 5):
            for name, side in sides.items():
                start = time.perf_counter()
                side(image)
                if repeat >= 5:
                    taken.setdefault(name, []).append((time.perf_counter() - start) * 1000)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ratio = medians["torchvision_eager"] / medians["edgedistill"]
    print(f"{args.repeats} interleaved repeats, {args.threads} thread(s), {SIZE} px, onnxruntime {onnxruntime.__version__}")
    for name, value in medians.items():
        print(f"{name:<20} {value:8.2f} ms")
    print(json.dumps({"vs_eager": round(ratio, 3), **{f"{name}_ms": round(value, 3) for name, value in medians.items()}}))


if __name__ == "__main__":
    main()
