"""The Open Inference Protocol, version 2, independent of transport: a model's metadata, and tensors in and out.

https://github.com/kserve/open-inference-protocol; binary tensors, configuration, statistics and repository are Triton's extensions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deploy.bundles import triton
from deploy.bundles.bundle import Bundle
from deploy.bundles.manifest import Manifest
from deploy.precision import Batch
from deploy.runtimes import Raw
from deploy.serving.batcher import JobResult
from deploy.serving.metrics import Totals
from deploy.serving.model import Model
from deploy.serving.refusals import Invalid, TooLarge
from deploy.serving.work import Work

_LONGEST_TIMEOUT = 10**15
_MOST_NUMBERS = 2_000_000
"""Numbers that are parsed one by one, while nothing else runs: about a fifth of a second."""
SERVER = "edgedistill"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
INPUT = "images"
Array = NDArray[Any]
T = TypeVar("T")

_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8"), "BOOL": np.dtype("?")}
"""Types on the wire; little-endian on every machine."""


def server_metadata(version: str) -> dict[str, Any]:
    """The server's name, version and extensions."""
    return {"name": SERVER, "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(model: Model) -> dict[str, Any]:
    """Names, types and shapes of the graph's tensors."""
    inputs, outputs = triton.tensors(model.bundle)
    return {
        "name": model.name,
        "versions": [str(model.version)],
        "platform": platform(model.bundle.manifest),
        "inputs": [one.metadata() for one in inputs],
        "outputs": [one.metadata() for one in outputs],
    }


def model_config(model: Model) -> dict[str, Any]:
    """Triton's configuration of the model."""
    return triton.config(model.bundle, model.name, max_batch_size=model.batcher.max_batch_size)


def only_input(inputs: Sequence[T]) -> T:
    """The input of a request, of which there is one.

    Raises:
        Invalid: none, or several.
    """
    if len(inputs) != 1:
        raise Invalid(f"{len(inputs)} inputs; this model has one: {INPUT}")
    return inputs[0]


def platform(manifest: Manifest) -> str:
    """The protocol's name for the runtime."""
    return f"edgedistill_{manifest.runtime}"


def statistics(model: Model, total: Totals) -> dict[str, Any]:
    """Triton's statistics: nanoseconds since the server started, summed over requests; transfers are not measured separately."""
    compute, queue = round(total.compute_s * 1e9), round(total.queue_s * 1e9)
    nothing, instant = {"count": 0, "ns": 0}, {"count": total.jobs, "ns": 0}
    inference = {
        "success": {"count": total.jobs, "ns": compute + queue},
        "fail": nothing,
        "queue": {"count": total.jobs, "ns": queue},
        "compute_input": instant,
        "compute_infer": {"count": total.jobs, "ns": compute},
        "compute_output": instant,
        "cache_hit": nothing,
        "cache_miss": nothing,
    }
    counts = {"inference_count": total.images, "execution_count": total.passes}
    one = {
        "name": model.name,
        "version": str(model.version),
        "last_inference": 0,
        **counts,
        "inference_stats": inference,
        "batch_stats": [],
    }
    return {"model_stats": [one]}


def dtype(name: str) -> np.dtype[Any]:
    """The NumPy type of a protocol type.

    Raises:
        Invalid: the model has no tensor of that type.
    """
    if name not in _DTYPES:
        raise Invalid(f"datatype {name!r}; this model's tensors are {', '.join(_DTYPES)}")
    return _DTYPES[name]


def admit_input(work: Work, name: str, datatype: str, shape: Sequence[int], max_images: int) -> None:
    """Refuse a tensor that does not match the model's input, and count its images; to be called before its numbers are read.

    Raises:
        Invalid: its name, type or shape is different.
        TooLarge: more than max_images.
        Busy, Gone: see Work.place.
    """
    size = work.model.contract.preprocessing
    expected = [3, size.height, size.width]
    if name != INPUT:
        raise Invalid(f"input {name[:40]!r}; this model's input is {INPUT}")
    if datatype != "FP32":
        raise Invalid(f"input {INPUT} has datatype {datatype[:20]!r}; it must be FP32")
    if len(shape) != 4 or list(shape[1:]) != expected or shape[0] < 1:
        raise Invalid(f"input {INPUT} has shape {list(shape)[:8]}; it must be [n, {', '.join(map(str, expected))}]")
    if shape[0] > max_images:
        raise TooLarge(f"{shape[0]} images in one request; at most {max_images} are allowed")
    work.place(shape[0])


def most_numbers(model: Model, max_images: int) -> int:
    """Maximum numbers of an input that is not sent as bytes: of `max_images` images if parsing them takes no time, of one at least."""
    size = model.contract.preprocessing
    one = 3 * size.height * size.width
    return max(one, min(max_images * one, _MOST_NUMBERS))


def check_outputs(bundle: Bundle, names: Sequence[str]) -> tuple[str, ...]:
    """The outputs to return: those named, or all.

    Raises:
        Invalid: an output is unknown, or requested twice.
    """
    known = [one.name for one in triton.tensors(bundle)[1]]
    unknown = [name for name in names if name not in known]
    if len(set(names)) != len(names):
        raise Invalid("an output is requested twice")
    if unknown:
        raise Invalid(f"output {unknown[0][:40]!r}; this model's outputs are {', '.join(known)}")
    return tuple(names) or tuple(known)


def infer(work: Work, images: Batch) -> dict[str, Array]:
    """All outputs for images [n, 3, H, W], run in batches of up to the engine's maximum size.

    Raises:
        Expired, Gone, ArtifactError: see Work.result.
    """
    size = work.model.batcher.max_batch_size
    futures = [work.submit(images[start : start + size]) for start in range(0, len(images), size)]
    answers: list[JobResult] = [work.result(future) for future in futures]
    return _outputs([answer.raw for answer in answers])


def datatype(value: Array) -> str:
    """The protocol's name for an array's type."""
    return {"f": "FP32", "i": "INT64", "b": "BOOL"}[value.dtype.kind]


def to_bytes(value: Array) -> bytes:
    """The array's bytes, row by row, little-endian."""
    return np.ascontiguousarray(value, _DTYPES[datatype(value)]).tobytes()


def from_bytes(content: bytes | memoryview, name: str, shape: Sequence[int]) -> Array:
    """A tensor from the wire.

    Raises:
        Invalid: its length does not match its shape.
    """
    kind = dtype(name)
    expected = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if len(content) != expected:
        raise Invalid(f"a tensor {name} {list(shape)[:8]} has {expected:,} bytes, but {len(content):,} were sent")
    return np.frombuffer(content, kind).reshape(tuple(shape))


def check_supported(parameters: Iterable[Mapping[str, Any]]) -> None:
    """Refuse parameters of inputs and outputs that this server does not support.

    Raises:
        Invalid: shared memory or classification.
    """
    given = {name for one in parameters for name in one}
    for name in ("classification", "shared_memory_region"):
        if name in given:
            raise Invalid(f"parameter {name} is not supported")


def timeout_ms(parameters: Mapping[str, Any]) -> float | None:
    """The request's time from its parameter `timeout`, in microseconds; None if it has none.

    Raises:
        Invalid: it is not a positive number.
    """
    value = parameters.get("timeout")
    if value in (None, 0):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise Invalid("parameter timeout must be a number of microseconds above 0")
    return min(value, _LONGEST_TIMEOUT) / 1000  # a whole number of 400 digits is no float


def _outputs(parts: Sequence[Raw]) -> dict[str, Array]:
    names = ("boxes", "scores", "labels", "converged", *(("masks",) if parts[0].masks is not None else ()))
    if len(parts) == 1:
        return {name: getattr(parts[0], name) for name in names}
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
