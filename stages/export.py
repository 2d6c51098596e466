"""Write a detector's deployed graph as ONNX."""

import hashlib
import shutil
from pathlib import Path

from deploy.contract import NetworkFacts
from deploy.engines.int8_training import INT8
from stages.artifacts import ONNX, Checkpoint, OnnxModel
from stages.config import ExportConfig
from stages.facts import OnnxFacts, write_facts
from stages.stage import stage


@stage(version=4)
def export(out: Path, config: ExportConfig, student: Checkpoint) -> OnnxModel:
    """Export the checkpoint's graph, including decoding and NMS, for a fixed image size; and what is known of its training for int8.

    Raises:
        BuildError: the graph cannot be exported.
    """
    # Imported here: a stage that is reused, or judged on a machine without torch, must not import torch.
    from stages.exports.to_onnx import write_onnx
    from stages.measurement.torch_accuracy import graph_options
    from stages.training.checkpoint import load_detector

    facts, file = student.facts, out / ONNX
    size = facts.contract.preprocessing
    graph = load_detector(student).graph(graph_options(config)).eval()
    heads = write_onnx(graph, (size.height, size.width), file, opset=config.opset, dynamic_batch=config.dynamic_batch)
    if (student.root / INT8).exists():
        shutil.copyfile(student.file(INT8), out / INT8)
    content = file.read_bytes()
    network = NetworkFacts(
        detector=facts.detector.name,
        parameters=facts.parameters,
        macs=facts.macs,
        checkpoint=student.root.name,
        last_fifth=None if facts.curve is None else facts.curve.last_fifth,
    )
    write_facts(
        out,
        OnnxFacts(
            contract=facts.contract,
            opset=config.opset,
            max_detections=config.max_detections,
            dynamic_batch=config.dynamic_batch,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            heads=heads,
            network=network,
        ),
    )
    return OnnxModel(out)
