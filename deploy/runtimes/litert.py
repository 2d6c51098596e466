"""LiteRT, formerly TensorFlow Lite, on the CPU: what Android has, and many boards.

The engine is a TFLite file of the network alone, for one image with its channels last, whose outputs bear the names of the raw outputs.
Boxes are decoded on the host: delegates to GPUs and NPUs take whole networks, but not sorting and suppression. The graph is converted
here, without TensorFlow and without torch.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import machine
from deploy.contract import Heads
from deploy.errors import ArtifactError, RuntimeUnavailable, first_line
from deploy.machine import files, packages
from deploy.machine.peak import Peak, cpu
from deploy.precision import Batch, Precision, Recipe
from deploy.runtimes import DEFAULTS, Compiled, Delivery, Raw, Session
from deploy.runtimes.litert_files import seal
from deploy.runtimes.litert_files.quiet import without_greeting

DELIVERY = Delivery("litert", ("cpu",))
INTEGERS = Recipe(signed_activations=False, quantize_bias=True, quantize_outputs=True)
"""TFLite's own int8: bytes with a zero point, signed in the file; a layer computes in bytes only if its output is rounded, too. Sums
have 32 bits on every processor, so weights have all of their 8."""
RAW_ONLY = True
_IDENTIFIER = b"TFL3"


def compile(typed: Path, heads: Heads, out: Path) -> Compiled:
    """Write out/engine.tflite. fp16 is how weights are stored; CPUs compute in fp32.

    Raises:
        BuildError: the graph is damaged, decodes boxes itself, or has an operator that is not converted.
    """
    # Only building needs the onnx package: an edge box has just its runtime.
    from deploy.runtimes.litert_files.build import build

    return build(typed, heads, out)


def open(file: Path, *, threads: int | None = None, options: Mapping[str, Any] = DEFAULTS) -> Session:
    """Open an engine; `threads` is the number of CPU threads, None for all that this process may use.

    Raises:
        RuntimeUnavailable: ai-edge-litert is not installed.
        ArtifactError: the file is not an edgedistill engine.
    """
    missing = why_not()
    if missing:
        raise RuntimeUnavailable(missing)
    try:
        content = files.read_bytes(file)
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror}") from error
    if content[4:8] != _IDENTIFIER:
        raise ArtifactError(f"{file}: not an engine that LiteRT can open (not a TFLite file); build it again")
    if (reason := seal.why_broken(content)) is not None:  # before LiteRT sees it: it may crash on what is damaged
        raise ArtifactError(f"{file}: not an engine that LiteRT can open ({reason}); build it again")
    return LiteRtSession(content, file, threads or machine.num_cores())


def identity() -> dict[str, str]:
    """LiteRT's version and the processor."""
    return {"ai-edge-litert": packages.version("ai-edge-litert") or "not installed", **machine.cpu()}


def foreign(fingerprint: Mapping[str, str]) -> None:
    """None: engines run on any machine."""


def why_not() -> str | None:
    """None if LiteRT is installed."""
    return None if importlib.util.find_spec("ai_edge_litert") else 'ai-edge-litert is not installed: pip install "edgedistill[litert]"'


class LiteRtSession(Session):
    """An open interpreter."""

    def __init__(self, content: bytes, file: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter  # imported late: why_not() is also called where no engine is opened

        self._file = file
        try:
            with without_greeting():
                self._interpreter = Interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
            (self._input,) = self._interpreter.get_input_details()
        except Exception as error:  # its own kinds, and ValueError for damaged files
            raise ArtifactError(f"{file}: not an engine that LiteRT can open ({first_line(error)}); build it again") from error
        self._outputs = {one["name"]: one["index"] for one in self._interpreter.get_output_details()}

    def infer(self, images: Batch) -> Raw:
        """Refused: engines of LiteRT return raw outputs.

        Raises:
            ArtifactError: always.
        """
        raise ArtifactError("the engine's boxes are decoded on the host, but its contract does not say how; build it again")

    def heads(self, images: Batch, names: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """See Session.heads."""
        if unknown := set(names) - set(self._outputs):
            raise ArtifactError(f"{self._file}: has no output {min(unknown)}; build it again")
        rows = [self._one(image, names) for image in images.transpose(0, 2, 3, 1)]
        return tuple(np.concatenate([row[index] for row in rows]) for index in range(len(names)))

    def _one(self, image: NDArray[np.float32], names: Sequence[str]) -> list[NDArray[np.float32]]:
        try:
            self._interpreter.set_tensor(self._input["index"], np.ascontiguousarray(image[None], np.float32))
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"the engine failed on images {image.shape}: {first_line(error)}; build it again") from error
        return [self._interpreter.get_tensor(self._outputs[name]) for name in names]

    def peak(self, precision: Precision) -> Peak | None:
        """See Session.peak."""
        return cpu(precision)

    def close(self) -> None:
        """Free the network's memory."""
        del self._interpreter
