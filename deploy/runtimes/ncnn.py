"""ncnn on the CPU: small, at home on ARM boards and phones.

The engine is an uncompressed zip archive of ncnn's two files: model.param, text, and model.bin. It computes one image at a time. ncnn has
no operators to sort and suppress with, so boxes are decoded on the host. pnnx converts the graph, where networks are trained; the machine
that runs engines needs ncnn alone.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import machine
from deploy.contract import Heads
from deploy.errors import ArtifactError, RuntimeUnavailable
from deploy.machine import packages
from deploy.machine.peak import Peak, cpu
from deploy.precision import Batch, Precision
from deploy.runtimes import DEFAULTS, Compiled, Delivery, Raw, Session
from deploy.runtimes.ncnn_files import archive

DELIVERY = Delivery("ncnn", ("cpu",))
RAW_ONLY = True


def compile(typed: Path, heads: Heads, out: Path) -> Compiled:
    """Write out/engine.ncnn.zip. fp16 is how weights are stored; where the processor cannot compute in it, sums are in fp32.

    Raises:
        BuildError: the graph is damaged, decodes boxes itself, or has an operator that ncnn lacks.
    """
    # Only building needs onnx and pnnx: an edge box has just its runtime.
    from deploy.runtimes.ncnn_files.convert import convert

    return convert(typed, heads, out)


def open(file: Path, *, threads: int | None = None, options: Mapping[str, Any] = DEFAULTS) -> Session:
    """Open an engine; `threads` is the number of CPU threads, None for all that this process may use.

    Raises:
        RuntimeUnavailable: ncnn is not installed.
        ArtifactError: the file is not an edgedistill engine.
    """
    missing = why_not()
    if missing:
        raise RuntimeUnavailable(missing)
    return NcnnSession(archive.read(file), file, threads or machine.num_cores())


def identity() -> dict[str, str]:
    """ncnn's version, that of pnnx if it is installed, and the processor."""
    return {"ncnn": packages.version("ncnn") or "not installed", **machine.cpu(), **packages.present(pnnx="pnnx")}


def foreign(fingerprint: Mapping[str, str]) -> None:
    """None: engines run on any machine."""


def why_not() -> str | None:
    """None if ncnn is installed."""
    return None if importlib.util.find_spec("ncnn") else 'ncnn is not installed: pip install "edgedistill[ncnn]"'


def why_not_build(options: Mapping[str, Any]) -> str | None:
    """None if pnnx, the converter, is installed."""
    if importlib.util.find_spec("pnnx") is not None:
        return None
    return 'pnnx, which converts graphs to ncnn, is not installed: build where networks are trained, pip install "edgedistill[ncnn-build]"'


class NcnnSession(Session):
    """An open network."""

    def __init__(self, content: archive.NcnnFiles, file: Path, threads: int) -> None:
        import ncnn  # imported late: identity() and why_not() are also called where no engine is opened

        self._ncnn = ncnn
        self._file = file
        self._shape, self._outputs = content.shape, dict(zip(content.outputs, content.blobs, strict=True))
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        options.use_vulkan_compute = False
        half = content.precision == "fp16"
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = half
        options.use_bf16_packed = options.use_bf16_storage = False
        archive.load(self._net, content, file)

    def infer(self, images: Batch) -> Raw:
        """Refused: ncnn's engines return raw outputs.

        Raises:
            ArtifactError: always.
        """
        raise ArtifactError("the engine's boxes are decoded on the host, but its contract does not say how; build it again")

    def heads(self, images: Batch, names: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """See Session.heads."""
        if images.shape[1:] != self._shape:
            raise ArtifactError(f"the engine failed on images {images.shape}: it was built for {self._shape}; build it again")
        if unknown := set(names) - set(self._outputs):
            raise ArtifactError(f"{self._file}: has no output {min(unknown)}; build it again")
        rows = [self._one(np.ascontiguousarray(image, np.float32), names) for image in images]
        return tuple(np.stack([row[index] for row in rows]) for index in range(len(names)))

    def _one(self, image: NDArray[np.float32], names: Sequence[str]) -> list[NDArray[np.float32]]:
        with self._net.create_extractor() as extractor:
            status = extractor.input(archive.INPUT, self._ncnn.Mat(image))
            found = []
            for name in names:
                failed, values = extractor.extract(self._outputs[name])
                if status or failed:
                    raise ArtifactError(f"{self._file}: ncnn cannot compute {name}; build it again")
                found.append(np.array(values, np.float32))
        return found

    def peak(self, precision: Precision) -> Peak | None:
        """See Session.peak."""
        return cpu(precision)

    def close(self) -> None:
        """Free the network's memory."""
        self._net.clear()
