"""Writes a TFLite file: tensors, operators and buffers, through the schema that ai-edge-litert ships."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from deploy.runtimes.litert_files import seal

Array = NDArray[Any]
_IDENTIFIER = b"TFL3"
LOWEST = -128
"""The lowest byte."""
_TYPES = {"float32": 0, "float16": 1, "int32": 2, "int8": 9}
_VERSIONS = {
    "int8": {"ADD": 2, "CONCATENATION": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "DEQUANTIZE": 2, "MAX_POOL_2D": 2, "PAD": 2, "PADV2": 2}
    | {"QUANTIZE": 2, "RESIZE_NEAREST_NEIGHBOR": 2, "STRIDED_SLICE": 2, "TRANSPOSE": 2},
    "float16": {"DEQUANTIZE": 3},
}
"""Versions of operators above 1, by the type of what they read first; interpreters that know only older ones refuse the file."""


@dataclass(frozen=True)
class ByteScale:
    """A value is scale * (byte - zero); one pair for all, or one for each place on `axis`."""

    scales: tuple[float, ...]
    zeros: tuple[int, ...]
    axis: int = 0


class FlatModel:
    """A model with one subgraph, filled operator by operator."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], "network"
        self._buffers = [_buffer(None)]
        self._codes: list[tuple[str, int]] = []
        self._kinds: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.roundings: list[ByteScale | None] = []

    def tensor(self, name: str, shape: Sequence[int], content: Array | None = None, rounding: ByteScale | None = None) -> int:
        """Add a tensor; returns its index. Its type is that of its content, otherwise int8 if it is rounded and float if not."""
        made = schema.TensorT()
        made.name, made.shape = name.encode(), list(shape)
        kind = ("float32" if rounding is None else "int8") if content is None else content.dtype.name
        made.type, made.buffer = _TYPES[kind], 0
        if content is not None:
            made.buffer = len(self._buffers)
            self._buffers.append(_buffer(np.frombuffer(np.ascontiguousarray(content).tobytes(), np.uint8)))
        if rounding is not None:
            made.quantization = _quantization(rounding)
        self.graph.tensors.append(made)
        self._kinds.append(kind)
        self.shapes.append(tuple(shape))
        self.roundings.append(rounding)
        return len(self.graph.tensors) - 1

    def like(self, index: int, name: str, shape: Sequence[int]) -> int:
        """Add a tensor of another's type and rounding; returns its index."""
        return self.tensor(name, shape, rounding=self.roundings[index])

    def operator(self, kind: str, inputs: Sequence[int], output: int, options: str = "", **values: Any) -> int:
        """Add an operator, with the fields of its options; returns its output."""
        made = schema.OperatorT()
        code = kind, _VERSIONS.get(self._kinds[inputs[0]], {}).get(kind, 1)
        if code not in self._codes:
            self._codes.append(code)
        made.opcodeIndex = self._codes.index(code)
        made.inputs, made.outputs = list(inputs), [output]
        if options:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in values.items():
                setattr(made.builtinOptions, name, value)
        self.graph.operators.append(made)
        return output

    def content(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file's content."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.description = 3, seal.BLANK
        model.subgraphs, model.buffers = [self.graph], self._buffers
        model.operatorCodes = [_code(kind, version) for kind, version in self._codes]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return seal.sealed(bytes(builder.Output()))


def _buffer(content: Array | None) -> Any:
    made = schema.BufferT()
    made.data = content
    return made


def _quantization(rounding: ByteScale) -> Any:
    made = schema.QuantizationParametersT()
    made.scale, made.zeroPoint = list(rounding.scales), list(rounding.zeros)
    made.quantizedDimension = rounding.axis
    return made


def _code(kind: str, version: int) -> Any:
    made = schema.OperatorCodeT()
    made.builtinCode = getattr(schema.BuiltinOperator, kind)
    made.deprecatedBuiltinCode = min(made.builtinCode, 127)
    made.version = version
    return made
