"""Exports a torch graph to ONNX and names the tensors that delimit the network."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from onnx import GraphProto, NodeProto
from torch import Tensor, nn

from deploy.contract import Heads
from deploy.errors import BuildError
from deploy.precision import network
from stages.detectors import Graph, GraphOutput
from stages.detectors.backbones.deformable import deployed


class _Flat(nn.Module):
    """The graph's answer as a plain tuple of tensors."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.deployed = graph  # torch.export reserves an attribute named graph

    def answer(self, images: Tensor) -> GraphOutput:
        """The graph's answer, in which deformable convolutions leave the network and resume it as regions do."""
        with deployed() as samplings:
            answer: GraphOutput = self.deployed(images)
        head = (*answer.head, *(one.predicted for one in samplings))
        return answer._replace(head=head, pooled=(*answer.pooled, *(one.sampled for one in samplings)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        answer = self.answer(images)
        masks = () if answer.masks is None else (answer.masks,)
        return (answer.boxes, answer.scores, answer.labels, answer.converged, *masks, *answer.head, *answer.pooled)


def write_onnx(
    graph: Graph, size: tuple[int, int], file: Path, *, opset: int = 18, dynamic_batch: bool = True, raw: Sequence[str] = ()
) -> Heads:
    """Write the graph for images of size (height, width) px; the result names the tensors that delimit its network.

    Args:
        raw: names for the raw head outputs, at which the graph then ends; empty: it decodes boxes and suppresses overlaps.

    Raises:
        BuildError: the exporter refuses the graph, or fixes its batch.
    """
    images = torch.zeros(2 if dynamic_batch else 1, 3, *size)
    flat = _Flat(graph).eval()
    with torch.no_grad():
        answer = flat.answer(images)
    heads = Heads(
        outputs=tuple(raw[index] if index < len(raw) else f"head_{index}" for index in range(len(answer.head))),
        inputs=tuple(f"pooled_{index}" for index in range(len(answer.pooled))),
    )
    kept = ["boxes", "scores", "labels", "converged", *([] if answer.masks is None else ["masks"])]
    _export(flat, images, file, [*kept, *heads.outputs, *heads.inputs], opset, dynamic_batch)
    model = onnx.load(str(file))
    if dynamic_batch and not model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_param"):
        raise BuildError(f"export: the graph takes {len(images)} images at a time and no other number; set export.dynamic_batch to false")
    outputs = [output for output in model.graph.output if output.name in (raw or kept)]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    if raw:
        _cut(model.graph, raw)
    _forget_sources(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(file))
    return heads


def _cut(graph: GraphProto, outputs: Sequence[str]) -> None:
    """Remove whatever these outputs do not need; the names of all that they need stay as they are."""
    needed, nodes = set(outputs), list[NodeProto]()
    for node in reversed(graph.node):  # sorted topologically, as ONNX requires
        if needed.intersection(node.output):
            nodes.append(NodeProto.FromString(node.SerializeToString()))
            needed.update(network.inputs(node))
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    for values in (graph.initializer, graph.value_info):
        kept = [value for value in values if value.name in needed]
        del values[:]
        values.extend(kept)


def _forget_sources(graph: GraphProto) -> None:
    """Remove torch's notes on where each node comes from: paths of this machine, which do not belong in a shipped file.

    Without them, the same network gives the same bytes on every machine and after every edit of unrelated source lines.
    """
    graph.ClearField("metadata_props")
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            for below in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _forget_sources(below)


def _export(graph: nn.Module, images: Tensor, file: Path, names: list[str], opset: int, dynamic_batch: bool) -> None:
    """Run torch's exporter without its remarks about its own internals."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},) if dynamic_batch else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                (images,),
                str(file),
                dynamo=True,
                opset_version=opset,
                input_names=["images"],
                output_names=names,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).partition("## Exception summary")[2] or str(error)
        raise BuildError(f"export: torch's ONNX exporter refused the graph: {' '.join(reason.split())[:300]}") from error
