"""Builds a target's engine: in int8 within its limit on the drop of mAP, or in whichever precision is the fastest within it."""

import filecmp
import shutil
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy import plugins
from deploy.accuracy.judge import LabeledSplit
from deploy.engines.builder import Builder
from deploy.engines.choice import Choice
from deploy.engines.fallback import Fallback, search
from deploy.engines.fastest import Offer, choose
from deploy.engines.request import BuildRequest, GraphSource
from deploy.errors import BuildError, RuntimeUnavailable
from deploy.precision import Precision
from deploy.runtimes import Compiled, why_not_build

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Built:
    """An engine and its precision; `fallback` if int8 had a limit, `choice` if the precision was chosen.

    `typed` is the ONNX graph that the engine was compiled from: the engine's own file if that is this graph.
    """

    compiled: Compiled
    typed: Path
    precision: Precision
    fallback: Fallback | None = None
    choice: Choice | None = None


def build_engine(source: GraphSource, out: Path, request: BuildRequest, split: LabeledSplit | None) -> Built:
    """Write the engine into `out`, and its typed graph if that is a different file.

    Args:
        split: labeled images to judge on; required for a limit and for a choice.

    Raises:
        RuntimeUnavailable: the runtime cannot build on this machine or, for a choice, cannot run on it.
        BuildError: the graph cannot be built, or no engine meets the limit.
        ArtifactError: the fp32 engine's answer is invalid.
        DataError: mAP is undefined on the split, and there is a limit.
    """
    if missing := _missing(request):
        raise RuntimeUnavailable(missing)
    with TemporaryDirectory() as scratch:
        builder = Builder(source, request, Path(scratch))
        built = _chosen(builder, split) if request.precision == "auto" else _built(builder, request.precision, split)
        return _copied(built, out)


def _missing(request: BuildRequest) -> str | None:
    """Why nothing can be built here. Asked first, because converting a graph may take minutes."""
    if request.precision == "auto":
        why: str | None = plugins.load("deploy.runtimes", request.runtime).why_not()
        if why is not None:
            return f"{why}; precision auto has to measure engines on their target machine"
    if missing := why_not_build(request.runtime, request.options):
        return missing
    return None if find_spec("onnx") else 'onnx is not installed: pip install "edgedistill[build]"'


def _chosen(builder: Builder, split: LabeledSplit | None) -> Built:
    assert split is not None, "a choice is made on a split"
    offers: list[Offer] = []
    builds: dict[Precision, Built] = {}
    for precision in PRECISIONS:
        try:
            builds[precision] = _built(builder, precision, split)
        except BuildError as error:
            offers.append(Offer(precision, None, str(error)))
        else:
            offers.append(Offer(precision, builds[precision].compiled.file, None))
    choice = choose(builder.request, offers, builder.source.contract, split)
    return replace(builds[choice.precision], choice=choice)


def _built(builder: Builder, precision: Precision, split: LabeledSplit | None) -> Built:
    limit = builder.request.max_map_drop
    if limit is None or precision != "int8":
        return Built(builder.compiled(precision), builder.typed(precision), precision)
    assert split is not None, "a limit is judged on a split"
    from deploy.engines.int8_candidates import Candidates  # needs the onnx package, as typing a graph does

    builder.compiled("int8")  # fails before anything is judged if the graph cannot be built
    candidates = Candidates(builder, split)
    found = search(candidates.num_layers(), candidates.effects, candidates.map, candidates.float_map(), limit)
    float_layers = frozenset(found.float_layers)
    return Built(builder.compiled("int8", float_layers), builder.typed("int8", float_layers), "int8", found)


def _copied(built: Built, out: Path) -> Built:
    """Copies of exactly the files that were judged."""
    made = built.compiled.file
    file = Path(shutil.copyfile(made, out / made.name))
    is_graph = filecmp.cmp(made, built.typed, shallow=False)
    typed = file if is_graph else Path(shutil.copyfile(built.typed, out / "typed.onnx"))
    return replace(built, compiled=replace(built.compiled, file=file), typed=typed)
