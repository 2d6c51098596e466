"""Write a detector's deployed graph as ONNX."""

from pathlib import Path

from stages.artifacts import Checkpoint, OnnxModel
from stages.config import ExportConfig
from stages.stage import stage


@stage(version=3)
def export(out: Path, config: ExportConfig, student: Checkpoint) -> OnnxModel:
    """Export the checkpoint's graph, including decoding and NMS, for a fixed image size.

    Raises:
        BuildError: the graph cannot be exported.
    """
    # Imported here: a stage that is reused, or judged on a machine without torch, must not import torch.
    from stages.exports.to_onnx import write

    return write(out, config, student)
