"""Int8 as QuantizeLinear and DequantizeLinear around the network's convolutions and matrix products."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from deploy import graph
from deploy.contract import Heads
from deploy.errors import BuildError
from deploy.runtimes import Calibration, Recipe

_ABSORBED = ("Relu", "Clip")


def to_int8(model: ModelProto, heads: Heads, calibration: Calibration, recipe: Recipe) -> ModelProto:
    """The model with its network's convolutions and matrix products in int8, ranges read from the calibration images.

    The prediction layers, whose results are the head outputs, stay float, so that decoding begins with numbers that were not
    rounded to 8 bits; they are a small part of the time and of the bytes.

    Raises:
        BuildError: there is nothing to quantize, no calibration image, or ONNX Runtime refuses the graph.
    """
    with TemporaryDirectory() as scratch:
        folded = _fold(model, heads, Path(scratch))
        chosen = _quantizable(folded, heads)
        if not any(node.op_type in graph.WEIGHTED for node in folded.graph.node if node.name in chosen):
            raise BuildError("no convolution or matrix product before the prediction layers to quantize; choose fp32 or fp16")
        reader = _Reader(calibration)
        file = Path(scratch) / "int8.onnx"
        try:
            _quantize(folded, file, reader, chosen, recipe)
        except Exception as error:  # ONNX Runtime has no error class of its own for this
            if reader.num_read == 0:
                raise BuildError("no image to calibrate int8 with") from error
            raise BuildError(f"ONNX Runtime cannot quantize the graph: {graph.first_line(error)}") from error
        return onnx.load(file)


def _quantize(model: ModelProto, file: Path, reader: "_Reader", nodes: list[str], recipe: Recipe) -> None:
    add_pre_process_metadata(model)  # else ONNX Runtime advises what _fold has done
    quantize_static(
        model,
        file,
        reader,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*graph.WEIGHTED, *_ABSORBED] if recipe.quantize_outputs else list(graph.WEIGHTED),
        nodes_to_quantize=nodes,
        per_channel=True,
        activation_type=QuantType.QInt8 if recipe.signed_activations else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={
            "ActivationSymmetric": recipe.signed_activations,
            "WeightSymmetric": True,
            "QuantizeBias": recipe.quantize_bias,
            "OpTypesToExcludeOutputQuantization": [] if recipe.quantize_outputs else list(graph.WEIGHTED),
        },
    )


def _fold(model: ModelProto, heads: Heads, scratch: Path) -> ModelProto:
    """Batch norms into convolutions and constants into one, in standard operators; the heads' tensors keep their names."""
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    kept.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (*heads.outputs, *heads.inputs) if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(scratch / "folded.onnx")
    try:
        onnxruntime.InferenceSession(kept.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BuildError(f"ONNX Runtime cannot read the graph: {graph.first_line(error)}") from error
    folded = onnx.load(scratch / "folded.onnx")
    original = [value for value in folded.graph.output if value.name in outputs]
    del folded.graph.output[:]
    folded.graph.output.extend(original)
    return folded


def _quantizable(model: ModelProto, heads: Heads) -> list[str]:
    nodes = graph.network(model, heads) - graph.last_weighted(model, heads)
    return [node.name for node in model.graph.node if node.name in nodes and node.op_type in (*graph.WEIGHTED, *_ABSORBED)]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, calibration: Calibration) -> None:
        self.images: Iterator[NDArray[Any]] = iter(calibration)
        self.num_read = 0

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next image, None after the last."""
        image = next(self.images, None)
        if image is None:
            return None
        self.num_read += 1
        return {"images": image}
