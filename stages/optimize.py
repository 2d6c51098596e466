"""Compiles the ONNX graph with a runtime, in a target's precision."""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from deploy import machine, plugins
from deploy.contract import Cost
from deploy.engines import int8_training
from deploy.engines.build import Built, build_engine
from deploy.engines.request import BuildRequest, GraphSource
from deploy.errors import ArtifactError, BuildError, RuntimeUnavailable
from deploy.precision import Precision
from deploy.runtimes import PACKAGE, fingerprint, options_of, wanted
from stages.artifacts import ONNX, Dataset, Engine, OnnxModel
from stages.config import TargetConfig, ValidationConfig
from stages.facts import EngineFacts, OnnxFacts, write_facts
from stages.measurement import latency_images
from stages.measurement.calibration_images import CalibrationImages
from stages.measurement.splits import labeled_split
from stages.stage import stage


def identity(
    config: TargetConfig,
    model: OnnxModel,
    dataset: Dataset | None,
    judged: str | None = None,
    threads: int | None = None,
    reference: OnnxModel | None = None,
) -> Mapping[str, Any]:
    """Versions and devices of the runtimes that the target may get, and the number of cores if engines are timed."""
    found: dict[str, Any] = {"cores": machine.num_cores()} if config.is_chosen else {}
    for name in wanted(config.runtime):
        found |= plugins.load(PACKAGE, name).identity()
    return found


def judging(config: TargetConfig, validation: ValidationConfig) -> tuple[str | None, int | None]:
    """The arguments `judged` and `threads` of `optimize`: None unless engines are judged or timed, respectively."""
    return validation.split if config.is_judged else None, validation.latency.threads if config.is_chosen else None


@stage(version=8, identity=identity)
def optimize(
    out: Path,
    config: TargetConfig,
    model: OnnxModel,
    dataset: Dataset | None,
    judged: str | None = None,
    threads: int | None = None,
    reference: OnnxModel | None = None,
) -> Engine:
    """Build the target's engine; if that is not possible on this machine, the engine's facts give the reason.

    `judged` is the split on which the target's limit is judged and its choice is made, if it has one; this and int8 require data, a
    choice among runtimes in fp32 or fp16 does not.
    `threads` is the number of threads with which engines are timed for a choice; None: the runtime's own number.
    `reference` is the student's graph if `model` was trained for int8: a limit on the drop of mAP is measured from it.

    Raises:
        BuildError: the graph cannot be built on any machine, or no engine meets the limit.
        ArtifactError: the fp32 engine's answer is invalid.
        DataError: the data has no such split, or it is empty, or has no objects to judge a limit on.
    """
    facts = model.facts
    built, why = None, None
    trained = int8_training.read(model.root)
    if dataset is not None and config.needs_calibration and not (trained is not None and trained.kept):
        dataset.split(config.calibration_split)  # refused here, not in the middle of quantization
    split = labeled_split(dataset, judged) if dataset is not None and judged is not None else None
    source = GraphSource(
        model.file(ONNX),
        facts.heads,
        facts.contract,
        CalibrationImages(dataset, config, facts.contract.preprocessing) if dataset is not None else (),
        partial(latency_images.of, split.images if split is not None else (), facts.contract.preprocessing),
        trained,
        None if reference is None else reference.file(ONNX),
    )
    request = BuildRequest(config.runtime, config.precision, config.options, config.ranges, config.max_map_drop, threads)
    try:
        built = build_engine(source, out, request, split)
    except RuntimeUnavailable as error:
        why = str(error)
    except (BuildError, ArtifactError) as error:
        raise type(error)(f"target {config.name}: {error}") from error
    figures = None if trained is None else trained.figures
    write_facts(out, _facts(config, facts, built, why).model_copy(update={"int8": figures}))
    return Engine(out)


def _facts(config: TargetConfig, model: OnnxFacts, built: Built | None, why: str | None) -> EngineFacts:
    content = built.compiled.file.read_bytes() if built is not None else None
    runtime, precision, options = _kind(config, built)
    return EngineFacts(
        target=config.name,
        runtime=runtime,
        precision=precision,
        options=options,
        required=config.required,
        contract=model.contract,
        file=built.compiled.file.name if built is not None else None,
        typed=built.typed.name if built is not None else None,
        sha256=hashlib.sha256(content).hexdigest() if content is not None else None,
        bytes=len(content) if content is not None else None,
        onnx_sha256=model.sha256,
        fingerprint={**fingerprint(runtime, options), "onnx_sha256": model.sha256},
        proof=json.loads(json.dumps(dict(built.compiled.proof))) if built is not None else {},
        cost=_cost(built),
        fallback=built.fallback if built is not None else None,
        choice=built.choice if built is not None else None,
        why=why,
    )


def _kind(config: TargetConfig, built: Built | None) -> tuple[str, Precision, dict[str, Any]]:
    """The engine's runtime, precision and options; if nothing was built, what is preferred of those that the target may get."""
    if built is not None:
        return built.runtime, built.precision, dict(built.options)
    preferred = wanted(config.runtime)[0]
    options = config.options if config.runtime == preferred else options_of(preferred, config.options)
    return preferred, "fp32" if config.precision == "auto" else config.precision, options


def _cost(built: Built | None) -> Cost | None:
    """The engine's cost, counted in the graph that it was compiled from."""
    if built is None:
        return None
    from deploy.latency import cost
    from deploy.precision import network  # they need the onnx package, as compiling does

    return cost.cost(network.read(built.typed))
