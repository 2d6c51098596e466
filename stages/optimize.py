"""The ONNX graph compiled by a runtime, in a target's precision."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deploy import plugins, preprocess
from deploy.build import Order, build
from deploy.contract import Preprocessing
from deploy.errors import BuildError, RuntimeUnavailable
from deploy.fallback import Fallback
from deploy.runtimes import Batch, Compiled, Quantization
from stages.artifacts import Dataset, Engine, EngineFacts, OnnxFacts, OnnxModel, read_json, write_facts
from stages.config import TargetConfig
from stages.splits import split
from stages.stage import stage

ONNX = "model.onnx"


def identity(config: TargetConfig, model: OnnxModel, dataset: Dataset, judged: str | None = None) -> Mapping[str, Any]:
    """The runtime's version and device."""
    return dict(plugins.load("deploy.runtimes", config.runtime).identity())


@stage(version=2, identity=identity)
def optimize(out: Path, config: TargetConfig, model: OnnxModel, dataset: Dataset, judged: str | None = None) -> Engine:
    """Build the target's engine; where that cannot be done on this machine, the engine's facts say why instead.

    `judged` is the split on which the target's limit is judged, where it has one.

    Raises:
        BuildError: the graph cannot be built, on whatever machine, or int8 cannot meet the limit.
        DataError: the data has no such split, or it is empty.
    """
    runtime = plugins.load("deploy.runtimes", config.runtime)
    facts = model.facts
    compiled, fallback, why = None, None, None
    try:
        compiled, fallback = build(
            model.file(ONNX),
            out,
            Order(config.runtime, config.precision, config.options, Quantization(config.ranges), config.max_map_drop),
            calibration=CalibrationImages(dataset, facts.contract.preprocessing, config.calibration_images),
            heads=facts.heads,
            contract=facts.contract,
            split=split(dataset, judged) if judged is not None else None,
        )
    except RuntimeUnavailable as error:
        why = str(error)
    except BuildError as error:
        raise BuildError(f"target {config.name}: {error}") from error
    write_facts(out, _facts(config, facts, runtime.identity(), compiled, fallback, why))
    return Engine(out)


def _facts(
    config: TargetConfig,
    model: OnnxFacts,
    runtime: Mapping[str, str],
    compiled: Compiled | None,
    fallback: Fallback | None,
    why: str | None,
) -> EngineFacts:
    content = compiled.file.read_bytes() if compiled is not None else None
    return EngineFacts(
        target=config.name,
        runtime=config.runtime,
        precision=config.precision,
        options=config.options,
        required=config.required,
        contract=model.contract,
        file=compiled.file.name if compiled is not None else None,
        sha256=hashlib.sha256(content).hexdigest() if content is not None else None,
        bytes=len(content) if content is not None else None,
        onnx_sha256=model.sha256,
        fingerprint={**runtime, **_built_for(config), "onnx_sha256": model.sha256},
        proof=json.loads(json.dumps(dict(compiled.proof))) if compiled is not None else {},
        fallback=fallback,
        why=why,
    )


def _built_for(config: TargetConfig) -> dict[str, str]:
    """The GPU that an engine was built for without having it."""
    capability = config.options.get("compute_capability", "current")
    return {} if capability == "current" else {"compute_capability": str(capability)}


class CalibrationImages:
    """Images spread evenly over the train split, through the deployed preprocessing; the same ones at each iteration."""

    def __init__(self, dataset: Dataset, preprocessing: Preprocessing, count: int) -> None:
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.count = count

    def __iter__(self) -> Iterator[Batch]:
        """Images [1, 3, H, W]."""
        names = [image["file_name"] for image in read_json(self.dataset.annotations("train"))["images"]]
        folder = self.dataset.images("train")
        chosen = np.unique(np.linspace(0, len(names) - 1, min(self.count, len(names))).round().astype(int))
        for index in chosen.tolist():
            network_input, _ = preprocess.apply(preprocess.load_image(folder / names[index]), self.preprocessing)
            yield network_input[None]
