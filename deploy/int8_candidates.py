"""Int8 engines with some layers in float, and what they cost in mAP."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from deploy import graph, plugins, quantize
from deploy.accuracy import Split, judge
from deploy.contract import ModelContract
from deploy.fallback import Effect
from deploy.predictor import Predictor
from deploy.runtimes import Quantization
from deploy.sensitivity import rank


class Candidates:
    """Engines with some layers in float, each built and judged; where the runtime cannot run here, its graph in ONNX Runtime."""

    def __init__(
        self,
        onnx: Path,
        scratch: Path,
        runtime: str,
        quantization: Quantization,
        fixed: Mapping[str, Any],
        contract: ModelContract,
        split: Split,
    ) -> None:
        """`fixed` are the arguments of the runtime's compile that all candidates share, calibration and heads among them."""
        self._onnx = onnx
        self._scratch = scratch
        self._quantization = quantization
        self._fixed = fixed
        self._contract = contract
        self._split = split
        self._runtime = plugins.load("deploy.runtimes", runtime)
        self._runs_here = self._runtime.why_not() is None
        self._judge_runtime = self._runtime if self._runs_here else plugins.load("deploy.runtimes", "ort")

    def effects(self) -> tuple[Effect, ...]:
        """Of all layers."""
        calibration, heads = self._fixed["calibration"], self._fixed["heads"]
        ranges = self._quantization.ranges
        with quantize.Quantizer(graph.read(self._onnx), heads, calibration, self._runtime.INTEGERS, ranges) as quantizer:
            return rank(quantizer, heads, calibration)

    def float_map(self) -> float:
        """Of the engine in fp32."""
        if not self._runs_here:
            return self._judged(self._onnx, "fp32")
        return self._judged(self._runtime.compile(self._onnx, self._folder(), precision="fp32", **self._fixed).file, "fp32")

    def map(self, float_layers: frozenset[str]) -> float:
        """Of the engine in int8 with these layers in float."""
        quantization = replace(self._quantization, float_layers=float_layers)
        label = f"int8, {len(float_layers)} layers in float"
        if self._runs_here:
            compiled = self._runtime.compile(self._onnx, self._folder(), precision="int8", quantization=quantization, **self._fixed)
            return self._judged(compiled.file, label)
        calibration, heads = self._fixed["calibration"], self._fixed["heads"]
        typed = quantize.to_int8(graph.read(self._onnx), heads, calibration, self._runtime.INTEGERS, quantization)
        file = self._folder() / "typed.onnx"
        file.write_bytes(typed.SerializeToString())
        return self._judged(file, label)

    def _judged(self, file: Path, label: str) -> float:
        with self._judge_runtime.open(file) as session:
            found = judge(Predictor(session, self._contract), self._split, label)
        return found.accuracy.map or 0.0

    def _folder(self) -> Path:
        return Path(mkdtemp(dir=self._scratch))
