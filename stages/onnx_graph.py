"""From a torch graph to ONNX, with the tensors named after which everything stays in fp32."""

import hashlib
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from deploy.errors import BuildError
from stages.artifacts import Checkpoint, OnnxFacts, OnnxModel, write_facts
from stages.checkpoint import load_detector
from stages.config import ExportConfig
from stages.evaluate import graph_options

MODEL = "model.onnx"
ANSWER = ("boxes", "scores", "labels", "converged")


def write(out: Path, config: ExportConfig, checkpoint: Checkpoint) -> OnnxModel:
    """Export the checkpoint's graph to out/model.onnx.

    Raises:
        BuildError: the exporter refuses the graph.
    """
    facts = checkpoint.facts
    size = facts.contract.preprocessing
    graph = load_detector(checkpoint).graph(graph_options(config)).eval()
    images = torch.zeros(2 if config.dynamic_batch else 1, 3, size.height, size.width)
    with torch.no_grad():
        num_raw = len(graph(images)) - len(ANSWER)
    head_outputs = tuple(f"head_{index}" for index in range(num_raw))
    _export(graph, images, out / MODEL, config, head_outputs)
    model = onnx.load(str(out / MODEL))
    kept = [output for output in model.graph.output if output.name not in head_outputs]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(out / MODEL))
    content = (out / MODEL).read_bytes()
    write_facts(
        out,
        OnnxFacts(
            contract=facts.contract,
            opset=config.opset,
            max_detections=config.max_detections,
            dynamic_batch=config.dynamic_batch,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            head_outputs=head_outputs,
        ),
    )
    return OnnxModel(out)


def _export(graph: nn.Module, images: Tensor, file: Path, config: ExportConfig, head_outputs: tuple[str, ...]) -> None:
    """torch's exporter, its remarks about its own internals left out."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},) if config.dynamic_batch else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                (images,),
                str(file),
                dynamo=True,
                opset_version=config.opset,
                input_names=["images"],
                output_names=[*ANSWER, *head_outputs],
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).partition("## Exception summary")[2] or str(error)
        raise BuildError(f"export: torch's ONNX exporter refused the graph: {' '.join(reason.split())[:300]}") from error
