"""Engines of a graph that was trained for int8: its ranges instead of images, and a limit measured from the network before."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_samples
import pytest

from deploy.engines.builder import Builder, TypedGraphs
from deploy.engines.int8_candidates import Candidates
from deploy.engines.int8_training import Int8Training
from deploy.engines.request import BuildRequest, GraphSource
from deploy.precision.int8 import Quantizer
from deploy.runtimes import nvidia, ort

FIGURES: dict[str, Any] = {"split": "val", "num_images": 6, "epochs": 1, "float_map": 0.9, "post_training_map": 0.8}


def ranges(folder: Path) -> dict[str, tuple[float, float]]:
    folder.mkdir()
    images = [np.random.default_rng(0).random((1, 3, 64, 64), np.float32)]
    quantizer = Quantizer(onnx_samples.detector(), onnx_samples.HEADS, images, ort.INTEGERS, "min_max", folder)
    quantizer.quantized(quantizer.layers)
    return dict(quantizer.ranges())


def test_the_ranges_of_the_training_are_written(tmp_path: Path) -> None:
    known = {name: (2 * low, 2 * high) for name, (low, high) in ranges(tmp_path / "read").items()}
    trained = Int8Training(**FIGURES, kept=True, recipe=asdict(ort.INTEGERS), ranges=known)
    source = GraphSource(onnx_samples.write(tmp_path / "m.onnx"), onnx_samples.HEADS, onnx_samples.contract(), (), trained=trained)
    made = Builder(TypedGraphs(source, "percentile", tmp_path), BuildRequest("ort", "int8"))
    assert made.quantizer.layers
    made.typed("int8")
    assert made.quantizer.ranges() == known


@pytest.mark.parametrize(("recipe", "joins"), [(nvidia.INTEGERS.for_training, True), (ort.INTEGERS, False)])
def test_the_kind_of_int8_is_the_trainings_if_it_is_the_runtimes(tmp_path: Path, recipe: Any, joins: bool) -> None:
    trained = Int8Training(**FIGURES, kept=True, recipe=asdict(recipe))
    source = GraphSource(onnx_samples.write(tmp_path / "m.onnx"), onnx_samples.HEADS, onnx_samples.contract(), (), trained=trained)
    made = Builder(TypedGraphs(source, "min_max", tmp_path), BuildRequest("trt_rtx", "int8"))
    assert made._recipe() == replace(nvidia.INTEGERS, quantize_joins=joins)


def test_a_limit_is_measured_from_the_network_before_its_training(tmp_path: Path) -> None:
    asked: list[bytes] = []

    class Maps:
        def of(self, file: Path, request: BuildRequest, label: str) -> float:
            asked.append(file.read_bytes())
            return 0.7

    before, after = onnx_samples.write(tmp_path / "before.onnx"), onnx_samples.write(tmp_path / "after.onnx", converged=False)
    source = GraphSource(after, onnx_samples.HEADS, onnx_samples.contract(), (), reference=before)
    made = Builder(TypedGraphs(source, "min_max", tmp_path), BuildRequest("ort", "int8", max_map_drop=0.01))
    maps: Any = Maps()
    assert Candidates(made, maps).float_map() == 0.7
    assert asked == [before.read_bytes()]
