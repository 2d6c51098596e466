"""Reading a file of tensors that also holds a training's own objects, without running anything that the file names.

torch reads the tensors, in the mode that creates nothing but tensors and plain values. Objects of the libraries in HARMLESS, such as the
histories of losses that mmengine keeps in a checkpoint, are replaced by stand-ins, which are empty and do nothing; the libraries are not
imported. A file that names anything else is refused before it is read.
"""

import pickletools
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

HARMLESS = ("mmengine", "mmcv", "mmdet", "mmcls", "mmpretrain", "mmyolo", "numpy", "addict", "pathlib", "datetime")
"""Libraries whose objects are replaced."""

_PLAIN = ("set", "frozenset", "list", "tuple", "dict", "int", "float", "complex", "bool", "str", "bytes", "bytearray", "slice", "range")
_BUILTINS = ("builtins", "__builtin__")
_REPLACED = ("collections.defaultdict", "collections.deque", *(f"{place}.{name}" for place in _BUILTINS for name in (*_PLAIN, "getattr")))
"""Of Python's own. What pickles a method, as histories have them, names getattr: here it gets nothing."""

_LEFT_TO_TORCH = ("torch.", "collections.OrderedDict", "collections.Counter", "_codecs.encode")
_REFUSED_BY_TORCH = re.compile(r"GLOBAL (\S+) was not an allowed global|unsupported GLOBAL (\S+)")

_MAPPING = ("Dict", "defaultdict")
"""How names of classes end whose objects are filled like dictionaries."""

_PROTOCOL = 2
_LEGACY_PARTS = 4
"""Pickles at the beginning of a file of torch before 1.6; the last holds the content."""


class CodeInPickle(UnpicklingError):
    """The file names functions or classes that are not data."""


class _Nothing:
    """An object of which nothing is kept."""

    def __init__(self, *values: object) -> None:
        """Keep nothing."""

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


class _Empty:
    """Becomes an empty dictionary, which the file then fills with plain values."""

    def __new__(cls, *_: object) -> "OrderedDict[Any, Any]":  # type: ignore[misc]
        return OrderedDict()


def load(file: Path) -> Any:
    """The content of a file that torch.save wrote.

    Raises:
        CodeInPickle: it names something other than data, and nothing of that has run.
        UnpicklingError: or any error that torch raises for a damaged file.
    """
    try:
        named = sorted(set(_names(file)))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, struct.error, OverflowError) as error:
        raise UnpicklingError(f"damaged: {error}") from error
    code = [name for name in named if not _replaced(name) and not name.startswith(_LEFT_TO_TORCH)]
    if code:
        raise CodeInPickle(f"it names {code[0]}, which is code and not data")
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_stand_in(name), name.replace("__builtin__.", "builtins.")) for name in named if _replaced(name)
    ]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        found = _REFUSED_BY_TORCH.search(str(error))
        if found is None:
            raise
        raise CodeInPickle(f"it names {found[1] or found[2]}, which is code and not data") from error


def _replaced(name: str) -> bool:
    return name in _REPLACED or name.partition(".")[0] in HARMLESS


def _stand_in(name: str) -> type:
    """A class of its own for each name, since torch looks classes up by their names."""
    return type(name.rpartition(".")[2], (_Empty if name.endswith(_MAPPING) else _Nothing,), {})


def _names(file: Path) -> Iterator[str]:
    """What the file's pickles name, as module and attribute, without reading anything else of them."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for inner in archive.namelist():
                if inner.endswith("/data.pkl"):
                    with archive.open(inner) as content:
                        yield from _named(content)
    else:
        with file.open("rb") as content:
            for _ in range(_LEGACY_PARTS):
                yield from _named(content)


def _named(content: IO[bytes]) -> Iterator[str]:
    """Of one pickle.

    Raises:
        UnpicklingError: it is of a newer protocol than torch.save's own; those name things by values that it computes.
    """
    for operation, argument, _ in pickletools.genops(content):
        if operation.name == "PROTO" and argument != _PROTOCOL:
            raise UnpicklingError(f"pickled with protocol {argument} instead of {_PROTOCOL}; save it with torch.save's own")
        if operation.name in ("GLOBAL", "INST"):
            assert isinstance(argument, str)
            yield argument.replace(" ", ".")
