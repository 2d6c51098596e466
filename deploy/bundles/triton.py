"""NVIDIA Triton's view of a bundle: its tensors, its model configuration, and a model repository."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.bundles.bundle import Bundle
from deploy.bundles.card import LABELS, label_lines
from deploy.bundles.manifest import Manifest
from deploy.errors import ArtifactError
from deploy.machine import files
from deploy.runtimes import ONNX_BACKEND, TritonBackend, delivery

_MAX_BATCH = 8
_QUEUE_DELAY_US = 1000


@dataclass(frozen=True)
class Tensor:
    """One input or output: the protocol's type, and its shape without the batch; -1 for a size that depends on the image."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def metadata(self) -> dict[str, Any]:
        """As the Open Inference Protocol describes it."""
        return {"name": self.name, "datatype": self.datatype, "shape": [-1, *self.shape]}

    def config(self) -> dict[str, Any]:
        """As Triton's configuration describes it, which requires at least one dimension."""
        one = {"name": self.name, "data_type": f"TYPE_{self.datatype}", "dims": list(self.shape) or [1]}
        return one if self.shape else {**one, "reshape": {"shape": []}}


def tensors(bundle: Bundle) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of the bundle's graph."""
    manifest, most = bundle.manifest, bundle.num_rows
    size = manifest.contract.preprocessing
    outputs = [Tensor("boxes", "FP32", (most, 4)), Tensor("scores", "FP32", (most,)), Tensor("labels", "INT64", (most,))]
    outputs.append(Tensor("converged", "BOOL", ()))
    if manifest.contract.mask_frame is not None:
        outputs.append(Tensor("masks", "FP32", (most, -1, -1)))
    return [Tensor("images", "FP32", (3, size.height, size.width))], outputs


def config(bundle: Bundle, name: str, *, max_batch_size: int, max_queue_delay_us: int = 0) -> dict[str, Any]:
    """A model configuration in JSON form; `to_pbtxt` converts it to the text format that Triton reads.

    Args:
        max_batch_size: 0 for a graph with a fixed batch of one image, whose shapes then include the batch.
    """
    backend = _own_backend(bundle.manifest) or ONNX_BACKEND
    inputs, outputs = tensors(bundle)
    if max_batch_size == 0:
        inputs, outputs = ([replace(one, shape=(1, *one.shape)) for one in side] for side in (inputs, outputs))
    batching = {"dynamic_batching": {"max_queue_delay_microseconds": max_queue_delay_us}} if max_batch_size > 1 else {}
    return {
        "name": name,
        "platform": backend.platform,
        "backend": backend.name,
        "max_batch_size": max_batch_size,
        "input": [one.config() for one in inputs],
        "output": [one.config() for one in outputs],
        **batching,
    }


def write(bundle: Bundle, repository: Path) -> None:
    """Write a repository of one model: configuration, labels and version 1 (the engine if Triton can run it, otherwise the ONNX graph).

    Raises:
        ArtifactError: its boxes are decoded on the host.
    """
    manifest = bundle.manifest
    if manifest.contract.decoding is not None:
        raise ArtifactError(
            f"{bundle.root}: Triton would answer with raw outputs, its boxes are decoded on the host; export with decode: graph"
        )
    folder = repository / manifest.name
    (folder / "1").mkdir(parents=True)
    own = _own_backend(manifest)
    backend = own or ONNX_BACKEND
    graph, *tensor_files = bundle.parts(manifest.engine if own and manifest.engine else manifest.onnx)
    for name in tensor_files:
        files.copy(bundle.file(name), folder / "1" / name)
    files.copy(bundle.file(graph), folder / "1" / backend.file)
    batch = min(_MAX_BATCH, manifest.options.get("max_batch") or _MAX_BATCH) if manifest.graph.dynamic_batch else 0
    described = config(bundle, manifest.name, max_batch_size=batch, max_queue_delay_us=_QUEUE_DELAY_US)
    size = manifest.contract.preprocessing
    alone = [1] if batch == 0 else []
    noise = {"data_type": "TYPE_FP32", "dims": [*alone, 3, size.height, size.width], "random_data": True}
    warm_up = {"name": "noise", "batch_size": min(batch, 1), "inputs": {"key": "images", "value": noise}}
    described |= {"model_warmup": [warm_up], "default_model_filename": backend.file}
    (folder / "config.pbtxt").write_text(to_pbtxt(described), encoding="utf-8")
    (folder / LABELS).write_text(label_lines(manifest.contract.classes), encoding="utf-8")


def _own_backend(manifest: Manifest) -> TritonBackend | None:
    """The backend that runs the engine; None if there is none, or no engine."""
    return None if manifest.engine is None else delivery(manifest.runtime).triton


def to_pbtxt(message: dict[str, Any], indent: str = "") -> str:
    """A message in protobuf's text format; type names become enumeration values, empty strings are omitted."""
    lines: list[str] = []
    for key, value in message.items():
        if isinstance(value, list) and not any(isinstance(one, dict) for one in value):
            lines.append(f"{indent}{key}: [{', '.join(map(_scalar, value))}]")
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                lines.append(f"{indent}{key} {{\n{to_pbtxt(one, indent + '  ')}{indent}}}")
            elif one != "":
                lines.append(f"{indent}{key}: {_scalar(one)}")
    return "".join(f"{line}\n" for line in lines)


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) and value.startswith("TYPE_") else json.dumps(value)
