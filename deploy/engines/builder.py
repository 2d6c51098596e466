"""Builds engines in two steps: the graph is typed, then a runtime compiles the typed graph."""

from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from deploy import plugins
from deploy.engines.request import BuildRequest, GraphSource
from deploy.errors import BuildError
from deploy.precision import Precision, RangeMethod, Recipe
from deploy.runtimes import PACKAGE, Compiled

if TYPE_CHECKING:
    from deploy.precision.int8 import Quantizer

NONE: frozenset[str] = frozenset()


class TypedGraphs:
    """One graph in every precision, in a scratch folder, each made only once.

    All int8 graphs of a recipe come from one quantizer, so the calibration images are run once for all of them.
    """

    def __init__(self, source: GraphSource, ranges: RangeMethod, scratch: Path) -> None:
        self.source = source
        self._ranges = ranges
        self._scratch = scratch
        self._quantizers: dict[Recipe, Quantizer] = {}
        self._typed: dict[tuple[Precision, Recipe | None, frozenset[str]], Path] = {("fp32", None, NONE): source.onnx}

    def typed(self, precision: Precision, recipe: Recipe | None = None, float_layers: frozenset[str] = NONE) -> Path:
        """The graph in a precision; in int8, `recipe` is its kind, and these layers stay float.

        Raises:
            BuildError: the graph cannot be converted.
        """
        key = precision, recipe, float_layers
        if key not in self._typed:
            self._typed[key] = self._converted(*key)
        return self._typed[key]

    def quantizer(self, recipe: Recipe) -> "Quantizer":
        """Ranges and layers of the graph, for a kind of int8.

        Raises:
            BuildError: nothing can be quantized.
        """
        from deploy.precision import network
        from deploy.precision.int8 import Quantizer  # needs ONNX Runtime's quantization, which is slow to import

        if recipe not in self._quantizers:
            graph, source = network.read(self.source.onnx), self.source
            known = source.trained.ranges if source.trained is not None and source.trained.fits(recipe) else None
            self._quantizers[recipe] = Quantizer(graph, source.heads, source.calibration, recipe, self._ranges, self.folder(), known)
        return self._quantizers[recipe]

    def folder(self) -> Path:
        """A new folder inside the scratch folder."""
        return Path(mkdtemp(dir=self._scratch))

    def _converted(self, precision: Precision, recipe: Recipe | None, float_layers: frozenset[str]) -> Path:
        from deploy.precision import fp16, network  # they need the onnx package

        if recipe is not None:
            quantizer = self.quantizer(recipe)
            model = quantizer.quantized(set(quantizer.layers) - float_layers)
        else:
            assert precision == "fp16", precision
            model = fp16.to_fp16(network.read(self.source.onnx), self.source.heads)
        file = self.folder() / "typed.onnx"
        file.write_bytes(model.SerializeToString())
        return file


class Builder:
    """A runtime's engines of these graphs, each made only once."""

    def __init__(self, graphs: TypedGraphs, request: BuildRequest) -> None:
        self.source = graphs.source
        self.request = request
        self.runtime = plugins.load(PACKAGE, request.runtime)
        self._graphs = graphs
        self._compiled: dict[tuple[Precision, frozenset[str]], Compiled] = {}
        self._reference: Compiled | None = None

    def typed(self, precision: Precision, float_layers: frozenset[str] = NONE) -> Path:
        """The graph in a precision; in int8, these layers stay float.

        Raises:
            BuildError: the graph cannot be converted, or the runtime has no int8.
        """
        return self._graphs.typed(precision, self._recipe() if precision == "int8" else None, float_layers)

    def compiled(self, precision: Precision, float_layers: frozenset[str] = NONE) -> Compiled:
        """The runtime's engine of `typed`.

        Raises:
            BuildError: the graph cannot be converted or built.
        """
        if (precision, float_layers) not in self._compiled:
            typed = self.typed(precision, float_layers)
            engine = self.runtime.compile(typed, self.source.heads, self._graphs.folder(), **self.request.options)
            self._compiled[precision, float_layers] = engine
        return self._compiled[precision, float_layers]

    @property
    def quantizer(self) -> "Quantizer":
        """Ranges and layers of the graph, for the runtime's kind of int8.

        Raises:
            BuildError: the runtime has no int8, or nothing can be quantized.
        """
        return self._graphs.quantizer(self._recipe())

    def _recipe(self) -> Recipe:
        recipe: Recipe | None = getattr(self.runtime, "INTEGERS", None)
        if recipe is None:
            raise BuildError(f"runtime {self.request.runtime} computes in fp32 and fp16, not in int8; choose one of these")
        trained = self.source.trained
        return recipe.for_training if trained is not None and trained.fits(recipe.for_training) else recipe

    def reference(self) -> Compiled:
        """The engine in fp32 whose mAP a limit on the drop is measured from.

        Raises:
            BuildError: it cannot be built.
        """
        if self.source.reference is None:
            return self.compiled("fp32")
        if self._reference is None:
            self._reference = self.runtime.compile(self.source.reference, self.source.heads, self._graphs.folder(), **self.request.options)
        return self._reference
