"""Computes a half-precision ONNX graph in true fp16: every tensor of type fp16 is rounded to fp16.

ONNX Runtime's CPU provider computes such graphs in fp32, which proves nothing about a GPU's results. Here ONNX's own reference
evaluator runs them. Departures from it: convolutions and matrix products accumulate in fp32 and round the sum, as GPUs do, and
element-wise gathers accept more than 64 rows.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploy.errors import ArtifactError, first_line
from deploy.precision import Batch, network
from deploy.runtimes import Raw, Session
from deploy.runtimes.onnx_files.engine import OUTPUTS
from deploy.runtimes.onnx_files.half_operators import Array, Conv, GatherElements, GridSample, MatMul, MaxPool

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


class HalfSession(Session):
    """An open graph; `largest` is the largest absolute value so far of each fp16 tensor."""

    def __init__(self, file: Path) -> None:
        """Read the graph.

        Raises:
            BuildError: the file is missing or not an ONNX graph.
            ArtifactError: the evaluator lacks an operator.
        """
        model = network.read(file)
        self._outputs = [value.name for value in model.graph.output if value.name in (*OUTPUTS, "masks")]
        try:
            self._evaluator = ReferenceEvaluator(model, new_ops=[Conv, MaxPool, MatMul, GatherElements, GridSample])
        except Exception as error:  # every operator raises its own errors
            raise ArtifactError(f"ONNX's reference evaluator cannot compute the graph ({first_line(error)})") from error
        self._masked = _masked(model)
        self.largest: dict[str, float] = {}

    def infer(self, images: Batch) -> Raw:
        """See Session.infer.

        Raises:
            ArtifactError: an fp16 tensor overflows (the message names the first), or the evaluator cannot compute the graph.
        """
        return Raw(**dict(zip(self._outputs, self.heads(images, self._outputs), strict=True)))

    def heads(self, images: Batch, names: Sequence[str]) -> tuple[Array, ...]:
        """See Session.heads; raises as `infer`."""
        with np.errstate(all="ignore"):  # infinities are found and reported below
            try:
                values = self._evaluator.run(None, {"images": images.astype(np.float32)}, intermediate=True)
            except Exception as error:  # every operator raises its own errors
                raise ArtifactError(f"ONNX's reference evaluator cannot compute the graph ({first_line(error)})") from error
        assert isinstance(values, dict)
        for name, value in values.items():
            if isinstance(value, np.ndarray) and value.dtype == np.float16 and value.size:
                self._note(name, value)
        return tuple(np.asarray(values[name]) for name in names)

    def _note(self, name: str, value: Array) -> None:
        other = value[~np.isfinite(value)]
        if other.size and not (name in self._masked and np.isneginf(other).all()):
            raise ArtifactError(f"tensor '{name}' is not finite in half precision; choose fp32 or int8")
        largest = float(np.abs(value[np.isfinite(value)]).max(initial=0))
        self.largest[name] = max(self.largest.get(name, 0.0), largest)

    def close(self) -> None:
        """Nothing to free."""


def _masked(model: ModelProto) -> set[str]:
    """The tensors that may hold -infinity: computed from a constant that does, such as an attention mask, up to the next softmax."""
    found = {weight.name for weight in model.graph.initializer if np.isneginf(numpy_helper.to_array(weight)).any()}
    for node in model.graph.node:
        own = any(np.isneginf(numpy_helper.to_array(a.t)).any() for a in node.attribute if a.t.data_type in _FLOATS)
        if own or (node.op_type != "Softmax" and found.intersection(node.input)):
            found.update(node.output)
    return found
