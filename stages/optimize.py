"""The ONNX graph compiled by a runtime, in a target's precision."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy import plugins, preprocess
from deploy.build import Built, build
from deploy.contract import Cost, Preprocessing
from deploy.errors import BuildError, RuntimeUnavailable
from deploy.order import Order, Source
from deploy.runtimes import Batch, Quantization
from deploy.sample import spread
from stages.artifacts import Dataset, Engine, EngineFacts, OnnxFacts, OnnxModel, read_json, write_facts
from stages.config import TargetConfig
from stages.splits import split
from stages.stage import stage

ONNX = "model.onnx"


def identity(config: TargetConfig, model: OnnxModel, dataset: Dataset | None, judged: str | None = None) -> Mapping[str, Any]:
    """The runtime's version and device."""
    return dict(plugins.load("deploy.runtimes", config.runtime).identity())


@stage(version=5, identity=identity)
def optimize(out: Path, config: TargetConfig, model: OnnxModel, dataset: Dataset | None, judged: str | None = None) -> Engine:
    """Build the target's engine; where that cannot be done on this machine, the engine's facts say why instead.

    `judged` is the split on which the target's limit is judged and its choice is made, where it has one; int8 and that take data.

    Raises:
        BuildError: the graph cannot be built, on whatever machine, or no engine meets the limit.
        DataError: the data has no such split, or it is empty.
    """
    runtime = plugins.load("deploy.runtimes", config.runtime)
    facts = model.facts
    built, why = None, None
    if dataset is not None and config.precision in {"int8", "auto"}:
        dataset.split(config.calibration_split)  # refused here, not in the midst of quantization
    source = Source(
        model.file(ONNX),
        facts.heads,
        facts.contract,
        CalibrationImages(dataset, config, facts.contract.preprocessing) if dataset is not None else (),
    )
    order = Order(config.runtime, config.precision, config.options, Quantization(config.ranges), config.max_map_drop)
    try:
        built = build(source, out, order, split(dataset, judged) if dataset is not None and judged is not None else None)
    except RuntimeUnavailable as error:
        why = str(error)
    except BuildError as error:
        raise BuildError(f"target {config.name}: {error}") from error
    write_facts(out, _facts(config, facts, runtime.identity(), built, why))
    return Engine(out)


def _facts(config: TargetConfig, model: OnnxFacts, runtime: Mapping[str, str], built: Built | None, why: str | None) -> EngineFacts:
    content = built.compiled.file.read_bytes() if built is not None else None
    wanted = "fp32" if config.precision == "auto" else config.precision
    return EngineFacts(
        target=config.name,
        runtime=config.runtime,
        precision=built.precision if built is not None else wanted,
        options=config.options,
        required=config.required,
        contract=model.contract,
        file=built.compiled.file.name if built is not None else None,
        typed=(built.compiled.typed or built.compiled.file).name if built is not None else None,
        sha256=hashlib.sha256(content).hexdigest() if content is not None else None,
        bytes=len(content) if content is not None else None,
        onnx_sha256=model.sha256,
        fingerprint={**runtime, **_built_for(config), "onnx_sha256": model.sha256},
        proof=json.loads(json.dumps(dict(built.compiled.proof))) if built is not None else {},
        cost=_cost(built),
        fallback=built.fallback if built is not None else None,
        choice=built.choice if built is not None else None,
        why=why,
    )


def _cost(built: Built | None) -> Cost | None:
    """Counted in the graph that the engine was compiled from."""
    if built is None:
        return None
    from deploy import cost, graph  # they need the onnx package, as compiling does

    return cost.cost(graph.read(built.compiled.typed or built.compiled.file))


def _built_for(config: TargetConfig) -> dict[str, str]:
    """The GPU that an engine was built for without having it."""
    capability = str(config.options.get("compute_capability", "current"))
    digits = capability.replace(".", "")
    return {} if capability == "current" else {"compute_capability": f"{digits[:-1]}.{digits[-1]}"}


class CalibrationImages:
    """Images spread evenly over the target's calibration split, through the deployed preprocessing; the same ones at each iteration."""

    def __init__(self, dataset: Dataset, target: TargetConfig, preprocessing: Preprocessing) -> None:
        self.dataset = dataset
        self.target = target
        self.preprocessing = preprocessing

    def __iter__(self) -> Iterator[Batch]:
        """Images [1, 3, H, W].

        Raises:
            DataError: the data has no such split.
        """
        split = self.target.calibration_split
        names = [image["file_name"] for image in read_json(self.dataset.annotations(split))["images"]]
        folder = self.dataset.images(split)
        for name in spread(names, self.target.calibration_images):
            network_input, _ = preprocess.apply(preprocess.load_image(folder / name), self.preprocessing)
            yield network_input[None]
