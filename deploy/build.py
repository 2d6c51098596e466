"""A target's engine, in int8 no further from float than its limit allows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy import plugins
from deploy.accuracy import Split
from deploy.contract import Heads, ModelContract
from deploy.fallback import Fallback, search
from deploy.runtimes import PLAIN, Calibration, Compiled, Precision, Quantization


@dataclass(frozen=True)
class Order:
    """What a target asks for: `options` are its runtime's own, `max_map_drop` the largest drop of mAP from fp32, null for any."""

    runtime: str
    precision: Precision
    options: Mapping[str, Any] = field(default_factory=dict)
    quantization: Quantization = PLAIN
    max_map_drop: float | None = None


def build(
    onnx: Path, out: Path, order: Order, *, calibration: Calibration, heads: Heads, contract: ModelContract, split: Split | None
) -> tuple[Compiled, Fallback | None]:
    """Write the engine into `out`; with a limit, also what was returned to float to meet it.

    Args:
        split: what the limit is judged on, needed where there is one.

    Raises:
        RuntimeUnavailable: the runtime cannot build here.
        BuildError: the graph cannot be built, or int8 cannot meet the limit.
        ArtifactError: an engine's answer cannot be used.
    """
    runtime = plugins.load("deploy.runtimes", order.runtime)

    fixed: dict[str, Any] = {"calibration": calibration, "heads": heads, **order.options}
    if order.max_map_drop is None or order.precision != "int8":
        return runtime.compile(onnx, out, precision=order.precision, quantization=order.quantization, **fixed), None
    assert split is not None, "a limit is judged on a split"
    from deploy.int8_candidates import Candidates  # needs the onnx package, as compiling does

    with TemporaryDirectory() as scratch:
        candidates = Candidates(onnx, Path(scratch), order.runtime, order.quantization, fixed, contract, split)
        found = search(candidates.effects(), candidates.map, candidates.float_map(), order.max_map_drop)
    chosen = replace(order.quantization, float_layers=frozenset(found.float_layers))
    return runtime.compile(onnx, out, precision="int8", quantization=chosen, **fixed), found
