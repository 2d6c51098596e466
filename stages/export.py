"""Write a detector's deployed graph as ONNX."""

from pathlib import Path

from stages.artifacts import Checkpoint, OnnxModel
from stages.config import ExportConfig
from stages.stage import stage


@stage(version=3)
def export(out: Path, config: ExportConfig, student: Checkpoint) -> OnnxModel:
    """The checkpoint's graph, decoding and NMS inside, of a fixed image size.

    Raises:
        BuildError: a graph that cannot be exported.
    """
    # Imported here: a stage that is reused, or judged on a machine without torch, imports no torch.
    from stages.exports.to_onnx import write

    return write(out, config, student)
