"""Builds engines in two steps: the graph is typed, then a runtime compiles the typed graph."""

from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from deploy import plugins
from deploy.engines.request import BuildRequest, GraphSource
from deploy.errors import BuildError
from deploy.precision import Precision
from deploy.runtimes import Compiled

if TYPE_CHECKING:
    from deploy.precision.int8 import Quantizer

NONE: frozenset[str] = frozenset()


class Builder:
    """Typed graphs and engines of one request, in a scratch folder, each made only once.

    All int8 graphs come from one quantizer, so the calibration images are run once for all of them.
    """

    def __init__(self, source: GraphSource, request: BuildRequest, scratch: Path) -> None:
        self.source = source
        self.request = request
        self.runtime = plugins.load("deploy.runtimes", request.runtime)
        self._scratch = scratch
        self._typed: dict[tuple[Precision, frozenset[str]], Path] = {("fp32", NONE): source.onnx}
        self._compiled: dict[tuple[Precision, frozenset[str]], Compiled] = {}

    def typed(self, precision: Precision, float_layers: frozenset[str] = NONE) -> Path:
        """The graph in a precision; in int8, these layers stay float.

        Raises:
            BuildError: the graph cannot be converted, or the runtime has no int8.
        """
        if (precision, float_layers) not in self._typed:
            self._typed[precision, float_layers] = self._converted(precision, float_layers)
        return self._typed[precision, float_layers]

    def compiled(self, precision: Precision, float_layers: frozenset[str] = NONE) -> Compiled:
        """The runtime's engine of `typed`.

        Raises:
            BuildError: the graph cannot be converted or built.
        """
        if (precision, float_layers) not in self._compiled:
            typed = self.typed(precision, float_layers)
            engine = self.runtime.compile(typed, self.source.heads, self._folder(), **self.request.options)
            self._compiled[precision, float_layers] = engine
        return self._compiled[precision, float_layers]

    @cached_property
    def quantizer(self) -> "Quantizer":
        """Ranges and layers of the graph, for the runtime's kind of int8.

        Raises:
            BuildError: the runtime has no int8, or nothing can be quantized.
        """
        from deploy.precision import network
        from deploy.precision.int8 import Quantizer  # needs ONNX Runtime's quantization, which is slow to import

        recipe = getattr(self.runtime, "INTEGERS", None)
        if recipe is None:
            raise BuildError(f"runtime {self.request.runtime} computes in fp32 and fp16, not in int8; choose one of these")
        source = self.source
        return Quantizer(network.read(source.onnx), source.heads, source.calibration, recipe, self.request.ranges, self._folder())

    def _converted(self, precision: Precision, float_layers: frozenset[str]) -> Path:
        from deploy.precision import fp16, network  # they need the onnx package

        if precision == "int8":
            model = self.quantizer.quantized(set(self.quantizer.layers) - float_layers)
        else:
            model = fp16.to_fp16(network.read(self.source.onnx), self.source.heads)
        file = self._folder() / "typed.onnx"
        file.write_bytes(model.SerializeToString())
        return file

    def _folder(self) -> Path:
        return Path(mkdtemp(dir=self._scratch))
