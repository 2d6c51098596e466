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


@stage(version=6)
def export(out: Path, config: ExportConfig, student: Checkpoint) -> OnnxModel:
    """Export the checkpoint's graph for a fixed image size, and what is known of its training for int8.

    Decoding and NMS are in the graph, unless the host does them.

    Raises:
        BuildError: the graph cannot be exported.
        ConfigError: its boxes are to be decoded on the host, which this detector's cannot.
    """
    # Imported here: a stage that is reused, or judged on a machine without torch, must not import torch.
    from stages.exports.to_onnx import write_onnx
    from stages.measurement.torch_accuracy import graph_options, host_decoding
    from stages.training.checkpoint import load_detector

    facts, file = student.facts, out / ONNX
    size = facts.contract.preprocessing
    detector = load_detector(student)
    graph = detector.graph(graph_options(config)).eval()
    shape, decoding = (size.height, size.width), None
    if config.decode == "host":
        decoding = host_decoding(detector, shape, config)
    raw = () if decoding is None else decoding.outputs
    heads = write_onnx(graph, shape, file, opset=config.opset, dynamic_batch=config.dynamic_batch, raw=raw)
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
            contract=facts.contract.model_copy(update={"decoding": decoding}),
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
