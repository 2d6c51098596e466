"""Writes a TFLite file: tensors, operators and buffers, through the schema that ai-edge-litert ships."""

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from deploy.runtimes.litert_files import seal

Array = NDArray[Any]
_VERSIONS = {"DEQUANTIZE": 3}
_IDENTIFIER = b"TFL3"


class FlatModel:
    """A model with one subgraph, filled operator by operator."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], "network"
        self._buffers = [_buffer(None)]
        self._codes: list[str] = []
        self.shapes: list[tuple[int, ...]] = []

    def tensor(self, name: str, shape: Sequence[int], content: Array | None = None) -> int:
        """Add a tensor, float unless its content says otherwise; returns its index."""
        made = schema.TensorT()
        made.name, made.shape = name.encode(), list(shape)
        kind = np.dtype(np.float32) if content is None else content.dtype
        made.type = {"float32": 0, "float16": 1, "int32": 2}[kind.name]
        made.buffer = 0
        if content is not None:
            made.buffer = len(self._buffers)
            self._buffers.append(_buffer(np.frombuffer(np.ascontiguousarray(content).tobytes(), np.uint8)))
        self.graph.tensors.append(made)
        self.shapes.append(tuple(shape))
        return len(self.graph.tensors) - 1

    def operator(self, kind: str, inputs: Sequence[int], output: int, options: str = "", **values: Any) -> int:
        """Add an operator, with the fields of its options; returns its output."""
        made = schema.OperatorT()
        if kind not in self._codes:
            self._codes.append(kind)
        made.opcodeIndex = self._codes.index(kind)
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
        model.operatorCodes = [_code(kind) for kind in self._codes]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return seal.sealed(bytes(builder.Output()))


def _buffer(content: Array | None) -> Any:
    made = schema.BufferT()
    made.data = content
    return made


def _code(kind: str) -> Any:
    made = schema.OperatorCodeT()
    made.builtinCode = getattr(schema.BuiltinOperator, kind)
    made.deprecatedBuiltinCode = min(made.builtinCode, 127)
    made.version = _VERSIONS.get(kind, 1)
    return made
