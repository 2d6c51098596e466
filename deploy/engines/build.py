"""Builds a target's engine: in int8 within its limit on the drop of mAP, or in whichever precision is the fastest within it."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy import plugins
from deploy.accuracy.judge import LabeledSplit
from deploy.engines.choice import Choice
from deploy.engines.fallback import Fallback, search
from deploy.engines.fastest import Offer, choose
from deploy.engines.request import GraphSource, Order
from deploy.errors import BuildError, RuntimeUnavailable
from deploy.precision import Precision
from deploy.runtimes import Compiled

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Built:
    """An engine and its precision; `fallback` if int8 had a limit, `choice` if the precision was chosen."""

    compiled: Compiled
    precision: Precision
    fallback: Fallback | None = None
    choice: Choice | None = None


def build_engine(source: GraphSource, out: Path, order: Order, split: LabeledSplit | None) -> Built:
    """Write the engine into `out`.

    Args:
        split: labeled images to judge on; required for a limit and for a choice.

    Raises:
        RuntimeUnavailable: the runtime cannot build on this machine or, for a choice, cannot run on it.
        BuildError: the graph cannot be built, or no engine meets the limit.
        ArtifactError: the fp32 engine's answer is invalid.
        DataError: mAP is undefined on the split, and there is a limit.
    """
    if order.precision != "auto":
        return _built(source, out, order, order.precision, split)
    assert split is not None, "a choice is made on a split"
    why = plugins.load("deploy.runtimes", order.runtime).why_not()
    if why is not None:
        raise RuntimeUnavailable(f"{why}; precision auto has to measure engines on their target machine")
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
        choice = choose(order, offers, source.contract, split)
        best = builds[choice.precision]
        compiled = _copied(best.compiled, out)
    return replace(best, compiled=compiled, choice=choice)


def _built(source: GraphSource, out: Path, order: Order, precision: Precision, split: LabeledSplit | None) -> Built:
    if order.max_map_drop is None or precision != "int8":
        return Built(source.compile(order, out, precision, order.quantization), precision)
    assert split is not None, "a limit is judged on a split"
    from deploy.engines.int8_candidates import Candidates  # needs the onnx package, as compiling does

    with TemporaryDirectory() as scratch:
        candidates = Candidates(source, order, split, Path(scratch))
        candidates.compiled(frozenset())  # fails before anything is judged if the runtime cannot build here
        found = search(candidates.num_layers(), candidates.effects, candidates.map, candidates.float_map(), order.max_map_drop)
        compiled = _copied(candidates.compiled(frozenset(found.float_layers)), out)
    return Built(compiled, precision, found)


def _copied(compiled: Compiled, out: Path) -> Compiled:
    """Copies of exactly the files that were judged."""
    file = Path(shutil.copyfile(compiled.file, out / compiled.file.name))
    typed = Path(shutil.copyfile(compiled.typed, out / compiled.typed.name)) if compiled.typed is not None else None
    return replace(compiled, file=file, typed=typed)
