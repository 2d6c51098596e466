"""The engine of ncnn as one file: an archive of the network, its weights, and which of its blobs are the raw outputs."""

import hashlib
import io
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import Field, ValidationError

from deploy.contract import Frozen
from deploy.errors import ArtifactError, first_line
from deploy.machine import files

PARAM, BIN, ABOUT = "model.param", "model.bin", "about.json"
INPUT = "in0"
_MAGIC = "7767517"
_MOST_TEXT = 2**24


class AboutNcnn(Frozen):
    """What ncnn's own files do not say: `outputs` by name, each with its `blobs` entry; `shape` of an image, channels first.

    `digest` is the sha256 of both files' content, one after the other: ncnn does not notice that they do not belong together.
    """

    outputs: tuple[str, ...] = Field(min_length=1)
    blobs: tuple[str, ...]
    shape: tuple[int, int, int]
    precision: Literal["fp32", "fp16"]
    digest: str = ""


class NcnnFiles(AboutNcnn):
    """The archive's content."""

    param: str
    weights: bytes = Field(repr=False)


def write(file: Path, content: NcnnFiles) -> None:
    """Write the archive; the same content gives the same bytes."""
    known = {**content.model_dump(include=set(AboutNcnn.model_fields)), "digest": _digest(content.param.encode(), content.weights)}
    about = AboutNcnn.model_validate(known).model_dump_json()
    parts = {PARAM: content.param.encode(), BIN: content.weights, ABOUT: about.encode()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def read(file: Path) -> NcnnFiles:
    """The content of an archive.

    Raises:
        ArtifactError: it is missing, damaged, or something else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(files.read_bytes(file))) as archive:
            stored = {info.filename: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in stored.values()) or set(stored) != {PARAM, BIN, ABOUT}:
                raise _foreign(file, "its parts are not those of an engine")
            if max(stored[name].file_size for name in (PARAM, ABOUT)) > _MOST_TEXT:
                raise _foreign(file, "its texts are too long")
            param, weights, about = (archive.read(name) for name in (PARAM, BIN, ABOUT))
        known = AboutNcnn.model_validate_json(about)
        text = param.decode("ascii")
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, ValidationError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _foreign(file, first_line(error)) from error
    if text.split(maxsplit=1)[:1] != [_MAGIC] or len(known.blobs) != len(known.outputs):
        raise _foreign(file, "its network is not one of ncnn")
    if known.digest != _digest(param, weights):
        raise _foreign(file, f"{PARAM} and {BIN} are not those that it was built with")
    return NcnnFiles(**known.model_dump(), param=text, weights=weights)


def load(net: Any, content: NcnnFiles, file: Path) -> None:
    """Fill a network of ncnn.

    Raises:
        ArtifactError: ncnn refuses the content.
    """
    with TemporaryDirectory() as scratch:  # from memory, ncnn reads weights without knowing where they end
        weights = Path(scratch, BIN)
        weights.write_bytes(content.weights)
        if net.load_param_mem(content.param) or net.load_model(str(weights)):
            raise _foreign(file, "ncnn cannot load it")
    if INPUT not in net.input_names() or not set(content.blobs) <= set(net.output_names()):
        raise _foreign(file, "it has other inputs or outputs")


def _digest(param: bytes, weights: bytes) -> str:
    return hashlib.sha256(param + weights).hexdigest()


def _foreign(file: Path, why: str) -> ArtifactError:
    return ArtifactError(f"{file}: not an engine that ncnn can open ({why}); build it again")
