"""Int8 engines with some layers in float, and their mAP."""

from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

from deploy import plugins
from deploy.accuracy.judge import LabeledSplit, defined, judge
from deploy.engines.request import GraphSource, Order
from deploy.errors import ArtifactError
from deploy.precision import LayerError, int8, network
from deploy.precision.sensitivity import rank
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import DEFAULTS, Compiled


class Candidates:
    """Engines with some layers in float, each built and judged; if the runtime cannot run here, the graph is judged in ONNX Runtime."""

    def __init__(self, source: GraphSource, order: Order, split: LabeledSplit, scratch: Path) -> None:
        self._source = source
        self._order = order
        self._split = split
        self._scratch = scratch
        self._runtime = plugins.load("deploy.runtimes", order.runtime)
        self._runs_here = self._runtime.why_not() is None
        self._compiled: dict[frozenset[str], Compiled] = {}

    def num_layers(self) -> int:
        """Number of quantizable layers."""
        with self._quantizer() as quantizer:
            return len(quantizer.layers)

    def effects(self) -> tuple[LayerError, ...]:
        """Effect of int8 in each single layer, the most harmful first."""
        with self._quantizer() as quantizer:
            return rank(quantizer, self._source.heads, self._source.calibration)

    def _quantizer(self) -> int8.Quantizer:
        source, ranges = self._source, self._order.quantization.ranges
        return int8.Quantizer(network.read(source.onnx), source.heads, source.calibration, self._runtime.INTEGERS, ranges)

    def float_map(self) -> float:
        """mAP of the engine in fp32.

        Raises:
            DataError: mAP is undefined on the split.
        """
        file = self._source.onnx
        if self._runs_here:
            file = self._source.compile(self._order, self._folder(), "fp32", self._order.quantization).file
        return self._judged(file, "fp32")

    def map(self, float_layers: frozenset[str]) -> float:
        """mAP of the engine in int8 with these layers in float; 0 if its answer is invalid."""
        file = self.compiled(float_layers).file if self._runs_here else self._graph(float_layers)
        try:
            return self._judged(file, f"int8, {len(float_layers)} layers in float")
        except ArtifactError:
            return 0.0

    def compiled(self, float_layers: frozenset[str]) -> Compiled:
        """The engine itself, built only once: the shipped engine is the one that was judged.

        Raises:
            RuntimeUnavailable: the runtime cannot build on this machine.
            BuildError: the graph cannot be built.
        """
        if float_layers not in self._compiled:
            quantization = replace(self._order.quantization, float_layers=float_layers)
            self._compiled[float_layers] = self._source.compile(self._order, self._folder(), "int8", quantization)
        return self._compiled[float_layers]

    def _graph(self, float_layers: frozenset[str]) -> Path:
        """The graph from which the engine would be built."""
        source, quantization = self._source, replace(self._order.quantization, float_layers=float_layers)
        typed = int8.to_int8(network.read(source.onnx), source.heads, source.calibration, self._runtime.INTEGERS, quantization)
        file = self._folder() / "typed.onnx"
        file.write_bytes(typed.SerializeToString())
        return file

    def _judged(self, file: Path, label: str) -> float:
        runtime = self._runtime if self._runs_here else plugins.load("deploy.runtimes", "ort")
        options = self._order.options if self._runs_here else DEFAULTS
        with runtime.open(file, options=options) as session:
            found = judge(SessionPredictor(session, self._source.contract), self._split, label)
        assert self._order.max_map_drop is not None, "candidates require a limit"
        return defined(found.accuracy.map, self._order.max_map_drop)

    def _folder(self) -> Path:
        return Path(mkdtemp(dir=self._scratch))
