"""NVIDIA Triton's view of a bundle: its tensors and its model configuration, in the form of config.pbtxt."""

from dataclasses import dataclass
from typing import Any

from deploy.bundle import Manifest

_PLATFORMS = {"ort": ("onnxruntime", "onnxruntime_onnx"), "trt": ("tensorrt", "tensorrt_plan"), "openvino": ("openvino", "")}
"""Backend and platform by runtime."""


@dataclass(frozen=True)
class Tensor:
    """One input or output: the protocol's type, and its shape without the batch; -1 for what an image decides."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def metadata(self) -> dict[str, Any]:
        """As the Open Inference Protocol describes it."""
        return {"name": self.name, "datatype": self.datatype, "shape": [-1, *self.shape]}

    def config(self) -> dict[str, Any]:
        """As Triton's configuration describes it, which knows no tensor without dimensions."""
        one = {"name": self.name, "data_type": f"TYPE_{self.datatype}", "dims": list(self.shape) or [1]}
        return one if self.shape else {**one, "reshape": {"shape": []}}


def tensors(manifest: Manifest) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of the bundle's graph."""
    size, most = manifest.contract.preprocessing, manifest.graph.max_detections
    outputs = [Tensor("boxes", "FP32", (most, 4)), Tensor("scores", "FP32", (most,)), Tensor("labels", "INT64", (most,))]
    outputs.append(Tensor("converged", "BOOL", ()))
    if manifest.contract.mask_frame is not None:
        outputs.append(Tensor("masks", "FP32", (most, -1, -1)))
    return [Tensor("images", "FP32", (3, size.height, size.width))], outputs


def config(manifest: Manifest, name: str, *, max_batch_size: int, max_queue_delay_us: int = 0) -> dict[str, Any]:
    """A model configuration, as JSON has it; `to_pbtxt` writes it as Triton reads it."""
    backend, platform = _PLATFORMS.get(manifest.runtime, (manifest.runtime, ""))
    inputs, outputs = tensors(manifest)
    batching = {"dynamic_batching": {"max_queue_delay_microseconds": max_queue_delay_us}} if max_batch_size > 1 else {}
    return {
        "name": name,
        "platform": platform,
        "backend": backend,
        "max_batch_size": max_batch_size,
        "input": [one.config() for one in inputs],
        "output": [one.config() for one in outputs],
        **batching,
    }
