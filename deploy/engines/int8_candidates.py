"""Int8 engines with some layers in float, and their mAP."""

from dataclasses import replace
from pathlib import Path

from deploy.accuracy.judge import defined
from deploy.engines.builder import Builder
from deploy.engines.maps import EngineMaps
from deploy.engines.request import BuildRequest
from deploy.errors import ArtifactError
from deploy.precision import LayerError, Precision
from deploy.precision.sensitivity import rank
from deploy.runtimes import DEFAULTS


class Candidates:
    """Engines with some layers in float, each built and judged; if the runtime cannot run here, the graph is judged in ONNX Runtime."""

    def __init__(self, builder: Builder, maps: EngineMaps) -> None:
        self._builder = builder
        self._maps = maps
        self._runs_here = builder.runtime.why_not() is None

    def num_layers(self) -> int:
        """Number of quantizable layers."""
        return len(self._builder.quantizer.layers)

    def effects(self) -> tuple[LayerError, ...]:
        """Effect of int8 in each single layer, the most harmful first."""
        return rank(self._builder.quantizer, self._builder.source.heads, self._builder.source.calibration)

    def float_map(self) -> float:
        """mAP of the engine in fp32, before it was trained for int8 if it was.

        Raises:
            DataError: mAP is undefined on the split.
        """
        builder = self._builder
        if builder.source.reference is None:
            return self._judged("fp32", frozenset(), "fp32")
        if self._runs_here:
            return self._map(builder.reference().file, builder.request, "fp32")
        return self._map(builder.source.reference, self._in_ort, "fp32")

    def map(self, float_layers: frozenset[str]) -> float:
        """mAP of the engine in int8 with these layers in float; 0 if its answer is invalid."""
        try:
            return self._judged("int8", float_layers, f"int8, {len(float_layers)} layers in float")
        except ArtifactError:
            return 0.0

    def _judged(self, precision: Precision, float_layers: frozenset[str], label: str) -> float:
        builder, request = self._builder, self._builder.request
        if self._runs_here:
            file = builder.compiled(precision, float_layers).file
        else:
            file, request = builder.typed(precision, float_layers), self._in_ort
        return self._map(file, request, label)

    @property
    def _in_ort(self) -> BuildRequest:
        return replace(self._builder.request, runtime="ort", options=DEFAULTS)

    def _map(self, file: Path, request: BuildRequest, label: str) -> float:
        assert request.max_map_drop is not None, "candidates require a limit"
        return defined(self._maps.of(file, request, label), request.max_map_drop)
