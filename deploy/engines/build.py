"""Builds a target's engine: as it is asked for, in int8 within a limit on the drop of mAP, or the fastest within it."""

import filecmp
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy import plugins
from deploy.accuracy.judge import LabeledSplit
from deploy.engines.builder import Builder, TypedGraphs
from deploy.engines.choice import Choice
from deploy.engines.fallback import Fallback, search
from deploy.engines.fastest import Offer, Rules, choose, none_left
from deploy.engines.maps import EngineMaps
from deploy.engines.request import BuildRequest, GraphSource
from deploy.errors import ArtifactError, BuildError, RuntimeUnavailable
from deploy.precision import Precision
from deploy.runtimes import AUTO, PACKAGE, Compiled, why_not_build


@dataclass(frozen=True)
class Built:
    """An engine with its runtime and precision; `fallback` if int8 had a limit, `choice` if there was something to choose.

    `options` are the runtime's. `typed` is the ONNX graph that the engine was compiled from: the engine's own file if that is this graph.
    """

    compiled: Compiled
    typed: Path
    runtime: str
    options: Mapping[str, Any]
    precision: Precision
    fallback: Fallback | None = None
    choice: Choice | None = None


def build_engine(source: GraphSource, out: Path, request: BuildRequest, split: LabeledSplit | None) -> Built:
    """Write the engine into `out`, and its typed graph if that is a different file.

    Args:
        split: labeled images to judge on; required for a limit and for a choice of the precision.

    Raises:
        RuntimeUnavailable: the runtime cannot build on this machine or, for a choice, cannot run on it.
        BuildError: the graph cannot be built, or no engine meets the limit.
        ArtifactError: the answer of every fp32 engine is invalid.
        DataError: mAP is undefined on the split, and there is a limit.
    """
    available, left_out = _available(request)
    maps = EngineMaps(source.contract, split, request.threads) if split is not None else None
    with TemporaryDirectory() as scratch:
        graphs = TypedGraphs(source, request.ranges, Path(scratch))
        builders = [Builder(graphs, one) for one in available]
        built = _chosen(builders, request, maps, left_out) if request.chooses else _built(builders[0], request.precisions[0], maps, None)
        return _copied(built, out)


def _available(request: BuildRequest) -> tuple[list[BuildRequest], dict[str, str]]:
    """The request to each runtime that can build here, and why the others cannot.

    Asked first, because converting a graph may take minutes.

    Raises:
        RuntimeUnavailable: there is none.
    """
    requests = request.per_runtime()
    missing = {one.runtime: _missing(one, request) for one in requests}
    left_out = {name: why for name, why in missing.items() if why is not None}
    available = [one for one in requests if one.runtime not in left_out]
    if not available:
        raise RuntimeUnavailable(none_left(left_out) if request.runtime == AUTO else left_out[request.runtime])
    if find_spec("onnx") is None:
        raise RuntimeUnavailable('onnx is not installed: pip install "edgedistill[build]"')
    return available, left_out


def _missing(own: BuildRequest, request: BuildRequest) -> str | None:
    """Why a runtime cannot build an engine here or, for a choice, cannot run it."""
    why: str | None = plugins.load(PACKAGE, own.runtime).why_not() if request.chooses else None
    if why is not None and request.runtime != AUTO:
        return f"{why}; precision auto has to measure engines on their target machine"
    return why or why_not_build(own.runtime, own.options)


def _chosen(builders: Sequence[Builder], request: BuildRequest, maps: EngineMaps | None, left_out: Mapping[str, str]) -> Built:
    """The best of all pairs of runtime and precision; the offers are ordered by precision, then by runtime, the simplest first."""
    assert maps is not None or request.max_map_drop is None, "a limit is judged on a split"
    rules = Rules(_float_map(builders, maps) if maps is not None else None, request.max_map_drop)
    offers: list[Offer] = []
    builds: dict[str, Built] = {}
    for precision in request.precisions:
        for builder in builders:
            try:
                built = _built(builder, precision, maps, rules.float_map)
            except BuildError as error:
                offers.append(Offer(builder.request, precision, None, str(error)))
            else:
                offers.append(Offer(builder.request, precision, built.compiled.file, None))
                builds[offers[-1].pair] = built
    choice = choose(offers, rules, maps, builders[0].source.contract, builders[0].source.timed_on())
    return replace(builds[choice.pair], choice=choice.model_copy(update={"left_out": dict(left_out)}))


def _float_map(builders: Sequence[Builder], maps: EngineMaps) -> float | None:
    """mAP of the float graph, in the first runtime that computes it.

    Raises:
        BuildError, ArtifactError: no runtime does; the error of the first.
    """
    errors: list[BuildError | ArtifactError] = []
    for builder in builders:
        try:
            return maps.of(builder.compiled("fp32").file, builder.request, f"auto: {builder.request.runtime} fp32")
        except (BuildError, ArtifactError) as error:
            errors.append(error)
    raise errors[0]


def _built(builder: Builder, precision: Precision, maps: EngineMaps | None, float_map: float | None) -> Built:
    """An engine; in int8 within the limit, if there is one. Without the float graph's mAP, int8 is compared with this runtime's fp32."""
    request = builder.request
    limit = request.max_map_drop
    if limit is None or precision != "int8":
        return Built(builder.compiled(precision), builder.typed(precision), request.runtime, request.options, precision)
    assert maps is not None, "a limit is judged on a split"
    from deploy.engines.int8_candidates import Candidates  # needs the onnx package, as typing a graph does

    builder.compiled("int8")  # fails before anything is judged if the graph cannot be built
    candidates = Candidates(builder, maps)
    compared = candidates.float_map() if float_map is None else float_map
    found = search(candidates.num_layers(), candidates.effects, candidates.map, compared, limit)
    layers = frozenset(found.float_layers)
    return Built(builder.compiled("int8", layers), builder.typed("int8", layers), request.runtime, request.options, "int8", found)


def _copied(built: Built, out: Path) -> Built:
    """Copies of exactly the files that were judged."""
    made = built.compiled.file
    file = Path(shutil.copyfile(made, out / made.name))
    is_graph = filecmp.cmp(made, built.typed, shallow=False)
    typed = file if is_graph else Path(shutil.copyfile(built.typed, out / "typed.onnx"))
    return replace(built, compiled=replace(built.compiled, file=file), typed=typed)
