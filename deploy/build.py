"""A target's engine: in int8 no further from float than its limit allows, or in whatever precision is the fastest within it."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from deploy import plugins
from deploy.accuracy import Split
from deploy.choice import Choice
from deploy.contract import Heads, ModelContract
from deploy.errors import BuildError, RuntimeUnavailable
from deploy.fallback import Fallback, search
from deploy.quickest import Offer, choose
from deploy.runtimes import PLAIN, Calibration, Compiled, Precision, Quantization

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Order:
    """What a target asks for: `options` are its runtime's own, `max_map_drop` the largest drop of mAP from fp32, null for any."""

    runtime: str
    precision: Precision | Literal["auto"]
    options: Mapping[str, Any] = field(default_factory=dict)
    quantization: Quantization = PLAIN
    max_map_drop: float | None = None


@dataclass(frozen=True)
class Source:
    """What engines of any precision are made of."""

    onnx: Path
    heads: Heads
    contract: ModelContract
    calibration: Calibration


@dataclass(frozen=True)
class Built:
    """An engine and its precision; with a limit on int8, what went back to float; where there was a choice, what was offered."""

    compiled: Compiled
    precision: Precision
    fallback: Fallback | None = None
    choice: Choice | None = None


def build(source: Source, out: Path, order: Order, split: Split | None) -> Built:
    """Write the engine into `out`.

    Args:
        split: what is judged on, needed for a limit and for a choice.

    Raises:
        RuntimeUnavailable: the runtime cannot build here; or, for a choice, cannot run here.
        BuildError: the graph cannot be built, or no engine meets the limit.
        ArtifactError: an engine's answer cannot be used.
    """
    if order.precision != "auto":
        return _built(source, out, order, order.precision, split)
    assert split is not None, "a choice is made on a split"
    why = plugins.load("deploy.runtimes", order.runtime).why_not()
    if why is not None:
        raise RuntimeUnavailable(f"{why}; precision auto measures engines on the machine that they are for")
    with TemporaryDirectory() as scratch:
        offers: list[Offer] = []
        builds: dict[Precision, Built] = {}
        for precision in PRECISIONS:
            folder = Path(scratch) / precision
            folder.mkdir()
            try:
                builds[precision] = _built(source, folder, order, precision, split)
            except BuildError as error:
                offers.append(Offer(precision, None, str(error)))
            else:
                offers.append(Offer(precision, builds[precision].compiled.file, None))
        choice = choose(order.runtime, offers, source.contract, split, order.max_map_drop)
        best = builds[choice.precision]
        file = Path(shutil.copyfile(best.compiled.file, out / best.compiled.file.name))
    return replace(best, compiled=replace(best.compiled, file=file), choice=choice)


def _built(source: Source, out: Path, order: Order, precision: Precision, split: Split | None) -> Built:
    runtime = plugins.load("deploy.runtimes", order.runtime)
    fixed: dict[str, Any] = {"calibration": source.calibration, "heads": source.heads, **order.options}
    if order.max_map_drop is None or precision != "int8":
        return Built(runtime.compile(source.onnx, out, precision=precision, quantization=order.quantization, **fixed), precision)
    assert split is not None, "a limit is judged on a split"
    from deploy.int8_candidates import Candidates  # needs the onnx package, as compiling does

    with TemporaryDirectory() as scratch:
        candidates = Candidates(source.onnx, Path(scratch), order.runtime, order.quantization, fixed, source.contract, split)
        found = search(candidates.effects(), candidates.map, candidates.float_map(), order.max_map_drop)
    chosen = replace(order.quantization, float_layers=frozenset(found.float_layers))
    return Built(runtime.compile(source.onnx, out, precision="int8", quantization=chosen, **fixed), precision, found)
