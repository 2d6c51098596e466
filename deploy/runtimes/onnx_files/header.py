"""What an ONNX file says about its inputs, its outputs and the files that it refers to, read without the onnx package.

A walk over protobuf's wire format, https://protobuf.dev/programming-guides/encoding, through the messages of onnx.proto that can hold
tensors. It never believes the file: lengths are checked, and whatever may be read as a reference counts as one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.errors import ArtifactError
from deploy.machine import files

ONNX_SUFFIX = ".onnx"
_DEEPEST, _MOST_FIELDS = 100, 20_000_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_INNER: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 11: "input", 12: "output", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {4: "operator", 5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""The messages by the fields that lead to tensors; an entry of a tensor names an external file."""

Field = tuple[int, int, int, int]
"""Number, wire type, and for bytes where they start and end, otherwise the value twice."""
Value = tuple[int, tuple[int | None, ...]]
"""Type of the elements as onnx.TensorProto numbers it, and shape; None for a dimension without a number."""


@dataclass
class Header:
    """`external`: the files that tensors are stored in. `opset`: of ONNX's own operators; 0 if not stated."""

    inputs: dict[str, Value] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    external: list[str] = field(default_factory=list)
    opset: int = 0


def read(content: bytes) -> Header:
    """The header of a model.

    Raises:
        ValueError: not an ONNX file, or one with an operator that opens other files.
    """
    found = Header()
    graphs, num, waiting = 0, 0, [("model", 0, len(content), 0)]
    while waiting:
        kind, start, end, level = waiting.pop()
        graphs += kind == "graph"
        for number, wire, low, high in _fields(content, start, end):
            num += 1
            if num > _MOST_FIELDS or level > _DEEPEST:
                raise ValueError(f"more than {_MOST_FIELDS:,} fields, or graphs nested more than {_DEEPEST} levels deep")
            inner = _INNER[kind].get(number)
            if inner is None or wire != _BYTES:
                continue
            if inner in _INNER:
                waiting.append((inner, low, high, level + 1))
            else:
                _take(found, inner, content[low:high], own=level <= 1)
    if not graphs:
        raise ValueError("there is no graph in it")
    return found


def _take(found: Header, kind: str, content: bytes, *, own: bool) -> None:
    """Note a message that leads no further; `own`: of the model's graph, not of one inside it."""
    if kind == "operator" and content == b"EPContext":
        raise ValueError("an operator that opens a compiled file, EPContext")
    if kind == "entry":
        found.external += _locations(content)
    elif kind == "opset":
        found.opset = _opset(content) or found.opset
    elif kind in ("input", "output") and own:
        name, value = _value(content)
        (found.inputs if kind == "input" else found.outputs)[name] = value


def open_model(file: Path) -> bytes | str:
    """What a runtime is given to open: the file's content or, if its tensors are in other files, its path, next to which these are.

    Raises:
        ArtifactError: not an ONNX file, or its tensors are in files outside its folder.
        OSError: the file cannot be read.
    """
    content = files.read_bytes(file)
    names = external(file, content)
    if names and file.suffix != ONNX_SUFFIX:
        raise ArtifactError(f"{file}: its tensors are in other files, and its name does not end in {ONNX_SUFFIX}; export it again")
    for name in names:
        files.check_regular(file.with_name(name))
    return str(file) if names else content


def external(file: Path, content: bytes) -> tuple[str, ...]:
    """The names of the files next to this one that hold tensors of it.

    Raises:
        ArtifactError: as `open_model`.
    """
    names = tuple(dict.fromkeys(header_of(file, content).external))
    outside = next((name for name in names if Path(name).name != name or name in ("", ".", "..") or not name.isprintable()), None)
    if outside is not None:
        raise ArtifactError(f"{file}: a tensor is in {outside[:100]!r}, outside the folder; export it with all tensors inside")
    return names


def header_of(file: Path, content: bytes) -> Header:
    """As `read`; ArtifactError names the file."""
    try:
        return read(content)
    except ValueError as error:
        raise ArtifactError(f"{file}: not an engine or graph in ONNX ({error}); export or build it again") from error


def _fields(content: bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of a message.

    Raises:
        ValueError: the bytes are not a message.
    """
    at = start
    while at < end:
        key, at = _varint(content, at, end)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(content, at, end)
            yield number, wire, value, value
            continue
        if wire == _BYTES:
            length, at = _varint(content, at, end)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError("damaged, or a different format")
        if number == 0 or at + length > end:
            raise ValueError("damaged, or a different format")
        yield number, wire, at, at + length
        at += length


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("damaged, or a different format")


def _locations(content: bytes) -> list[str]:
    """The file that an entry (key 1, value 2) names; every one, if the entry repeats its fields."""
    keys, values = ([content[low:high] for low, high in _below(content, number)] for number in (1, 2))
    return [value.decode("utf-8", "replace") for value in (values or [b""])] if b"location" in keys else []


def _value(content: bytes) -> tuple[str, Value]:
    """A ValueInfoProto: name 1, type 2 > tensor_type 1 > elem_type 1 and shape 2 > dim 1 > dim_value 1."""
    name = "".join(content[low:high].decode("utf-8", "replace") for low, high in _below(content, 1))
    kind, shape = 0, list[int | None]()
    for tensor in (inner[start:end] for low, high in _below(content, 2) if (inner := content[low:high]) for start, end in _below(inner, 1)):
        kind = _number(tensor, 1) or kind
        for low, high in _below(tensor, 2):
            dims = tensor[low:high]
            shape += [_number(dims[start:end], 1) for start, end in _below(dims, 1)]
    return name, (kind, tuple(shape))


def _opset(content: bytes) -> int:
    """The version of an import (domain 1, version 2) of ONNX's own operators; 0 for those of others."""
    domains = [content[low:high] for low, high in _below(content, 1)]
    return (_number(content, 2) or 0) if all(domain in (b"", b"ai.onnx") for domain in domains) else 0


def _below(content: bytes, wanted: int) -> list[tuple[int, int]]:
    return [(low, high) for number, wire, low, high in _fields(content, 0, len(content)) if number == wanted and wire == _BYTES]


def _number(content: bytes, wanted: int) -> int | None:
    found = [low for number, wire, low, _ in _fields(content, 0, len(content)) if number == wanted and wire == _VARINT]
    return found[-1] if found else None
