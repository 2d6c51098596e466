"""Int8 as QuantizeLinear and DequantizeLinear around the network's convolutions and matrix products."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorsData, load_tensors_data, save_tensors_data
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from deploy.contract import Heads
from deploy.errors import BuildError, first_line
from deploy.precision import Calibration, RangeMethod, Ranges, Recipe, joins, network

_ABSORBED = ("Relu", "Clip")
_MAX_AT_ONCE = 4
"""Maximum number of images whose tensors are held in memory; at 640 px a detector with 300 tensors takes 0.3 GiB per image."""
_METHODS = {"min_max": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile}


class Quantizer:
    """One graph and its ranges, in which any subset of the network's convolutions and matrix products can be quantized.

    The prediction layers, which produce the head outputs, stay float, and so do the few that read what these are made of: decoding then
    starts from numbers that were not rounded to 8 bits, and these layers account for little of the time and the bytes.

    `model` is the graph with its batch norms folded, `layers` the names of its quantizable layers in graph order. `scratch` is an
    empty folder for temporary files. With `known` ranges of its tensors, no image is read.

    Raises:
        BuildError: nothing to quantize, or ONNX Runtime rejects the graph.
    """

    def __init__(
        self,
        model: ModelProto,
        heads: Heads,
        calibration: Calibration,
        recipe: Recipe,
        ranges: RangeMethod,
        scratch: Path,
        known: Ranges | None = None,
    ) -> None:
        self._reader = _Reader(calibration)
        self._recipe = recipe
        self._method = _METHODS[ranges]
        self._scratch = scratch
        self._known = known is not None
        if known is not None:
            self._method = CalibrationMethod.MinMax
            data = {name: tuple(np.array(end, np.float32) for end in ends) for name, ends in known.items()}
            save_tensors_data(TensorsData(self._method, data), self._cache)
        self.model = fold(model, heads, scratch)
        self._groups, owners = _groups(self.model, heads)
        self._joins = joins.find(self.model, heads, owners) if recipe.quantize_joins else ()
        self.layers = tuple(self._groups)
        add_pre_process_metadata(self.model)  # otherwise ONNX Runtime recommends what fold has already done
        self._file = scratch / "model.onnx"
        self._file.write_bytes(self.model.SerializeToString())

    def quantized(self, layers: Collection[str]) -> ModelProto:
        """The graph with these layers in int8; the images are read only the first time.

        Raises:
            BuildError: no layer to quantize, no calibration image, or ONNX Runtime rejects the graph.
        """
        nodes = [node for layer in self.layers if layer in layers for node in self._groups[layer]]
        if not nodes:
            raise BuildError("no layer is left to quantize; choose fp32 or fp16")
        file = self._scratch / "int8.onnx"
        try:
            self._quantize(file, nodes)
        except Exception as error:  # ONNX Runtime has no error class of its own for this
            if self._reader.num_read == 0 and not self._known:
                raise BuildError("no image to calibrate int8 with") from error
            raise BuildError(f"ONNX Runtime cannot quantize the graph: {first_line(error)}") from error
        model = onnx.load(file)
        self._restore_weights(model, set(nodes))
        chosen = [join for join in self._joins if join.layers <= set(layers)]
        return joins.quantize(model, chosen, self.ranges(), self._recipe) if chosen else model

    def ranges(self) -> Ranges:
        """The least and the largest value of each tensor that int8 may round, once a graph has been quantized."""
        data = load_tensors_data(self._cache).data
        ends = {name: [float(np.asarray(end).item()) for end in one.range_value] for name, one in data.items()}
        return {name: (low, high) for name, (low, high) in ends.items()}

    def _restore_weights(self, model: ModelProto, quantized: Collection[str]) -> None:
        """Let layers in float read their weights as they are: one that several layers share was rounded for all of them."""
        weights = {one.name: one for one in self.model.graph.initializer}
        original = {node.name: node.input for node in self.model.graph.node if node.name not in quantized}
        present = {one.name for one in model.graph.initializer}
        for node in model.graph.node:
            for index, name in enumerate(original.get(node.name, ())):
                if name in weights and name != node.input[index]:
                    node.input[index] = name
                    if name not in present:
                        model.graph.initializer.append(weights[name])
                        present.add(name)

    @property
    def _cache(self) -> Path:
        return self._scratch / "ranges.json"

    def _quantize(self, file: Path, nodes: Sequence[str]) -> None:
        recipe = self._recipe
        kinds = [*network.WEIGHTED, *_ABSORBED] if recipe.quantize_outputs else list(network.WEIGHTED)
        quantize_static(
            self._file,
            file,
            self._reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*kinds, *(joins.KINDS if recipe.quantize_joins else ())],
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=recipe.narrow_weights,
            activation_type=QuantType.QInt8 if recipe.signed_activations else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=self._method,
            calibration_cache_path=self._cache,
            extra_options={
                "ActivationSymmetric": recipe.signed_activations,
                "WeightSymmetric": True,
                "QuantizeBias": recipe.quantize_bias,
                "OpTypesToExcludeOutputQuantization": [] if recipe.quantize_outputs else list(network.WEIGHTED),
                "CalibStridedMinMax": self._reader.stride,  # for all methods, despite its name
            },
        )


def fold(model: ModelProto, heads: Heads, scratch: Path) -> ModelProto:
    """Fold batch norms and constants, using only standard operators; the heads' tensors keep their names."""
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
        raise BuildError(f"ONNX Runtime cannot read the graph: {first_line(error)}") from error
    folded = onnx.load(scratch / "folded.onnx")
    original = [value for value in folded.graph.output if value.name in outputs]
    del folded.graph.output[:]
    folded.graph.output.extend(original)
    return folded


def _groups(model: ModelProto, heads: Heads) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Each quantizable layer with its nodes: itself and the activations that can be merged into its rounding; and each tensor's layer."""
    nodes = network.network(model, heads) - network.float_layers(model, heads)
    chosen = [node for node in model.graph.node if node.name in nodes]
    groups = {node.name: [node.name] for node in chosen if node.op_type in network.WEIGHTED}
    if not groups:
        raise BuildError("no convolution or matrix product before the prediction layers to quantize; choose fp32 or fp16")
    owner: dict[str, str] = {}  # for each tensor, the layer that it comes from
    for node in chosen:
        layer = node.name if node.name in groups else next((owner[name] for name in node.input if name in owner), None)
        if layer is None:
            continue
        owner.update(dict.fromkeys(node.output, layer))
        if node.op_type in _ABSORBED:
            groups[layer].append(node.name)
    return groups, owner


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """The images in strides of equal length; after each stride its ranges are merged and its tensors released."""

    def __init__(self, calibration: Calibration) -> None:
        self.images = calibration
        self.number = len(calibration)
        self.stride = next(stride for stride in range(_MAX_AT_ONCE, 0, -1) if self.number % stride == 0)
        self.num_read = 0
        self.end = self.number

    def __len__(self) -> int:
        """Number of images."""
        return self.number

    def set_range(self, start_index: int, end_index: int) -> None:
        """Continue reading, up to and excluding image `end_index`."""
        assert start_index == self.num_read, "strides must be consecutive"
        self.end = end_index

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next image, None after the last of a stride."""
        if self.num_read == self.end:
            return None
        self.num_read += 1
        return {"images": self.images[self.num_read - 1]}
