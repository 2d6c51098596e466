"""Ranks layers by how much int8 hurts: each is quantized on its own and judged by its effect on the head outputs."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from deploy.contract import Heads
from deploy.precision import Batch, Calibration, LayerError
from deploy.precision.int8 import Quantizer
from deploy.precision.network import inputs

EVERY = 16
"""One in this many calibration images is used."""


def rank(quantizer: Quantizer, heads: Heads, calibration: Calibration) -> tuple[LayerError, ...]:
    """All layers, the most harmful first. Computed by ONNX Runtime on the CPU.

    Raises:
        BuildError: as Quantizer.quantized.
    """
    images = [calibration[index] for index in range(0, len(calibration), EVERY)]
    expected = _head_outputs(quantizer.model, heads, images)
    effects = [
        LayerError(layer, _error(_head_outputs(quantizer.quantized({layer}), heads, images), expected)) for layer in quantizer.layers
    ]
    return tuple(sorted(effects, key=lambda effect: -effect.error))


def _head_outputs(model: ModelProto, heads: Heads, images: Sequence[Batch]) -> list[list[NDArray[np.float32]]]:
    """The raw head outputs for each image."""
    opened = _without_decoding(model, heads)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run(list(heads.outputs), {"images": image}) for image in images]


def _without_decoding(model: ModelProto, heads: Heads) -> ModelProto:
    """The graph with the head outputs as its outputs, without the nodes that they do not need.

    ONNX Runtime would optimize and run these nodes, too. All shapes are kept, because optimizations that round differently use them.
    """
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    needed = set(heads.outputs)
    nodes = []
    for node in reversed(model.graph.node):  # sorted topologically, as ONNX requires
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(inputs(node))
    del cut.graph.node[:]
    cut.graph.node.extend(reversed(nodes))
    del cut.graph.output[:]
    cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in heads.outputs)
    return cut


def _error(found: Sequence[Sequence[NDArray[np.float32]]], expected: Sequence[Sequence[NDArray[np.float32]]]) -> float:
    changes = np.array([[np.square(a - b).mean() for a, b in zip(*pair, strict=True)] for pair in zip(found, expected, strict=True)])
    powers = np.array([[np.square(b).mean() for b in image] for image in expected])
    return float((changes.mean(axis=0) / np.maximum(powers.mean(axis=0), 1e-12)).max())
