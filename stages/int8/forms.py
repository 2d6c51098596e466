"""The student's graph in int8, before and after its training."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor

from deploy import plugins
from deploy.accuracy.judge import Judged, LabeledSplit, judge
from deploy.contract import Heads, ModelContract
from deploy.precision import Calibration, Ranges, network, placement
from deploy.precision.int8 import Quantizer
from deploy.precision.placement import Array, RoundingTable
from deploy.prediction.predictor import SessionPredictor
from stages.config import ExportConfig, FinetuneConfig
from stages.detectors import Detector
from stages.exports.to_onnx import write_onnx
from stages.measurement.torch_accuracy import graph_options

NARROW, WIDE = 64, 127
"""The integer that a channel's largest weight becomes, with narrow weights and without."""


class Int8Forms:
    """A student's graph, quantized after its training as the target asks for, and as the training for int8 has it.

    Args:
        scratch: an empty folder.

    Raises:
        BuildError: the graph cannot be exported or quantized.
    """

    def __init__(self, student: Detector, config: FinetuneConfig, export: ExportConfig, contract: ModelContract, scratch: Path) -> None:
        self.contract = contract
        self._config, self._export, self._scratch = config, export, scratch
        self._graph, self.heads = self._exported(student)

    def calibrate(self, images: Calibration) -> None:
        """Read the ranges of both kinds."""
        shipped = replace(self._config.recipe, quantize_joins=False)
        post = Quantizer(self._graph, self.heads, images, shipped, self._config.ranges, self._folder())
        self.post_training = post.quantized(post.layers)
        own = post
        if shipped != self._config.recipe:
            own = Quantizer(self._graph, self.heads, images, self._config.recipe, self._config.ranges, self._folder())
        self.typed = own.quantized(own.layers)
        self.folded, self.ranges = own.model, own.ranges()

    @property
    def table(self) -> RoundingTable:
        """Where and how the graph that is trained for rounds."""
        return placement.read(self.typed, self.folded)

    @property
    def limit(self) -> int:
        """See NARROW."""
        return NARROW if self._config.narrow_weights else WIDE

    @property
    def weights(self) -> dict[str, Array]:
        """The weights and biases of the graph before it was quantized."""
        return {one.name: numpy_helper.to_array(one) for one in self.folded.graph.initializer if one.dims}

    def trained(self, detector: Detector, ranges: Ranges | None = None) -> ModelProto:
        """The trained detector's graph with the weights' own scales and these ranges, by default those that were read."""
        graph, heads = self._exported(detector)
        known = self.ranges if ranges is None else ranges
        quantizer = Quantizer(graph, heads, (), self._config.recipe, self._config.ranges, self._folder(), known)
        return quantizer.quantized(quantizer.layers)

    def judged(self, model: ModelProto, split: LabeledSplit, label: str) -> Judged:
        """What an int8 graph finds in the split, computed by ONNX Runtime as it is written.

        Raises:
            ArtifactError: an answer is invalid.
        """
        file = self._folder() / "typed.onnx"
        file.write_bytes(model.SerializeToString())
        with plugins.load("deploy.runtimes", "ort").open(file, options={"optimization": "none", "provider": "cpu"}) as session:
            return judge(SessionPredictor(session, self.contract), split, label)

    def _exported(self, detector: Detector) -> tuple[ModelProto, Heads]:
        size, file = self.contract.preprocessing, self._folder() / "model.onnx"
        graph = detector.graph(graph_options(self._export)).eval()
        shape = size.height, size.width
        heads = write_onnx(graph, shape, file, opset=self._export.opset, dynamic_batch=self._export.dynamic_batch)
        return network.read(file), heads

    def _folder(self) -> Path:
        return Path(mkdtemp(dir=self._scratch))


def arrays(tensors: Sequence[Tensor]) -> list[Array]:
    """Tensors as arrays."""
    return [np.asarray(tensor.detach().cpu().float().numpy()) for tensor in tensors]


def heads_of(detector: Detector, export: ExportConfig, image: Tensor) -> list[Array]:
    """The raw head outputs of the deployed graph in torch."""
    with torch.no_grad():
        return arrays(detector.graph(graph_options(export)).eval()(image).head)
