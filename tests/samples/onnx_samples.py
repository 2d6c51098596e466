"""A hand-made ONNX detector whose answer is known: it finds cells of pure red, green or blue on black.

It has what a real one has: convolutions with batch norm and ReLU, head outputs, and a decoding stage whose areas leave the range
of half precision. A square of CELL px on the cell grid is found exactly, so its average precision is 1.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.contract import BoxCode, HeadLevel, Heads, HostDecoding, MaskFrame, ModelContract, Preprocessing

CELL = 16
CLASSES = ("red", "green", "blue")
CATEGORY_IDS = (3, 7, 90)
HEADS = Heads(outputs=("class_logits", "box_deltas"))
MAX_DETECTIONS = 8
NUM_CONVOLUTIONS = 4
BOX_MASK = 8
"""Samples on a side of a mask that covers its box; its left half is the object."""
MASK_STRIDE = 4
"""Px between the samples of a mask that covers the image; the whole box is the object."""


def contract(size: int = 64, mask_frame: MaskFrame | None = None, *, raw: bool = False) -> ModelContract:
    """The sample's contract: size x size px; `raw`: boxes are decoded on the host."""
    preprocessing = Preprocessing(height=size, width=size)
    own = ModelContract(preprocessing=preprocessing, classes=CLASSES, category_ids=CATEGORY_IDS, mask_frame=mask_frame)
    return own.model_copy(update={"decoding": decoding(size)}) if raw else own


def decoding(size: int = 64) -> HostDecoding:
    """How a host decodes the sample's raw outputs: each cell is a box."""
    level = HeadLevel(height=size // CELL, width=size // CELL, step=(CELL, CELL), anchors=((0, 0, CELL, CELL),))
    limits = {"max_detections": MAX_DETECTIONS, "candidates": 16, "score_threshold": 0.05, "iou_threshold": 0.5}
    own = {"outputs": HEADS.outputs, "levels": (level,), "code": BoxCode(kind="center"), "scores": "class_first"}
    return HostDecoding.model_validate({**own, **limits})


def picture(cells: dict[tuple[int, int], int], size: int = 64) -> NDArray[np.uint8]:
    """Black [size, size, 3] with the cells (row, column) filled in the color of a label."""
    image = np.zeros((size, size, 3), np.uint8)
    for (row, column), label in cells.items():
        image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL, label] = 255
    return image


def detector(size: int = 64, *, dynamic_batch: bool = True, converged: bool = True, mask_frame: MaskFrame | None = None) -> onnx.ModelProto:
    """The graph: images [B, 3, size, size] to boxes, scores, labels, converged, and masks where it shall have them."""
    batch = "batch" if dynamic_batch else 1
    k = MAX_DETECTIONS
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [batch, k, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, k]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [batch, k]),
        helper.make_tensor_value_info("converged", TensorProto.BOOL, [batch]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])
    values, nodes = _weights(size, converged), [*_network(), *_decoding()]
    if mask_frame is not None:
        side = BOX_MASK if mask_frame == "box" else size // MASK_STRIDE
        outputs.append(helper.make_tensor_value_info("masks", TensorProto.FLOAT, [batch, k, side, side]))
        values |= _mask_weights(side)
        nodes += _masks_of_boxes() if mask_frame == "box" else _masks_of_the_image()
    weights = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "cells", [images], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def raw_detector(size: int = 64, *, dynamic_batch: bool = True) -> onnx.ModelProto:
    """The graph without decoding: images [B, 3, size, size] to class_logits [B, N, 3] and box_deltas [B, N, 4]."""
    batch, rows = "batch" if dynamic_batch else 1, (size // CELL) ** 2
    named = {name: f"{name}_map" for name in HEADS.outputs}
    nodes = _network()
    for node in nodes:
        node.output[:] = [named.get(name, name) for name in node.output]
    for name, grid in named.items():
        nodes.append(helper.make_node("Reshape", [grid, "flat"], [f"{name}_flat"]))
        nodes.append(helper.make_node("Transpose", [f"{name}_flat"], [name], perm=[0, 2, 1]))
    used = {name for node in nodes for name in node.input}
    weights = [numpy_helper.from_array(value, name) for name, value in _weights(size, converged=True).items() if name in used]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])
    sizes = zip(HEADS.outputs, (len(CLASSES), 4), strict=True)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, rows, last]) for name, last in sizes]
    graph = helper.make_graph(nodes, "cells", [images], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def write(path: Path, size: int = 64, *, dynamic_batch: bool = True, converged: bool = True, mask_frame: MaskFrame | None = None) -> Path:
    """Save `detector(...)`."""
    onnx.save_model(detector(size, dynamic_batch=dynamic_batch, converged=converged, mask_frame=mask_frame), path)
    return path


def _weights(size: int, converged: bool) -> dict[str, NDArray[np.generic]]:
    def floats(*shape: int) -> NDArray[np.float32]:
        return np.zeros(shape, np.float32)

    stem, pool, classes, boxes = floats(8, 3, 3, 3), floats(8, 8, CELL, CELL), floats(3, 8, 1, 1), floats(4, 8, 1, 1)
    for c in range(3):
        stem[c, c, 1, 1] = 1
        pool[c, c] = 1 / CELL**2
        classes[:, c, 0, 0] = -8
        classes[c, c, 0, 0] = 8
    grid = size // CELL
    y, x = (axis.ravel() * CELL for axis in np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij"))
    cells = np.stack([x, y, x + CELL, y + CELL], axis=-1).astype(np.float32)
    return {
        "stem_weight": stem,
        "bn_scale": np.ones(8, np.float32),
        "bn_zero": floats(8),
        "bn_var": np.full(8, 1 - 1e-5, np.float32),
        "pool_weight": pool,
        "class_weight": classes,
        "class_bias": np.full(3, -6, np.float32),
        "box_weight": boxes,
        "one": np.ones(1, np.float32),  # shared by the network and the decoding
        "cells": cells[None],
        "flat": np.array([0, 0, -1], np.int64),
        "k": np.array([MAX_DETECTIONS], np.int64),
        "last": np.array([-1], np.int64),
        "second": np.array([1], np.int64),
        "third": np.array([2], np.int64),
        "boxes_shape": np.array([1, 1, 4], np.int64),
        "large": np.full(1, 1024, np.float32),
        "threshold": np.full(1, 0.05, np.float32),
        "nothing": floats(1),
        "least": np.full(1, -1 if converged else 2, np.float32),
    }


def _network() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Conv", ["images", "stem_weight"], ["stem"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["stem", "bn_scale", "bn_zero", "bn_zero", "bn_var"], ["normed"]),
        node("Relu", ["normed"], ["active"]),
        node("Mul", ["active", "one"], ["scaled"]),
        node("Conv", ["scaled", "pool_weight"], ["pooled"], strides=[CELL, CELL]),
        node("Relu", ["pooled"], ["features"]),
        node("Conv", ["features", "class_weight", "class_bias"], ["class_logits"]),
        node("Conv", ["features", "box_weight"], ["box_deltas"]),
    ]


def _decoding() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Reshape", ["class_logits", "flat"], ["logits_flat"]),
        node("Transpose", ["logits_flat"], ["logits"], perm=[0, 2, 1]),
        node("Sigmoid", ["logits"], ["probabilities"]),
        node("ReduceMax", ["probabilities", "last"], ["best"], keepdims=0),
        node("ArgMax", ["probabilities"], ["best_label"], axis=-1, keepdims=0),
        node("Reshape", ["box_deltas", "flat"], ["deltas_flat"]),
        node("Transpose", ["deltas_flat"], ["deltas"], perm=[0, 2, 1]),
        node("Add", ["deltas", "cells"], ["placed"]),
        # areas of 256 x 1,024: infinite in half precision, so that half decoding would answer NaN
        node("Split", ["placed"], ["x1", "y1", "x2", "y2"], axis=2, num_outputs=4),
        node("Sub", ["x2", "x1"], ["width"]),
        node("Sub", ["y2", "y1"], ["height"]),
        node("Mul", ["width", "height"], ["area"]),
        node("Mul", ["area", "large"], ["large_area"]),
        node("Mul", ["large_area", "one"], ["same_area"]),
        node("Div", ["same_area", "large_area"], ["ratio"]),
        node("Mul", ["placed", "ratio"], ["all_boxes"]),
        node("TopK", ["best", "k"], ["top", "order"], axis=1),
        node("GatherElements", ["best_label", "order"], ["labels"], axis=1),
        node("Unsqueeze", ["order", "third"], ["order_column"]),
        node("Expand", ["order_column", "boxes_shape"], ["order_boxes"]),
        node("GatherElements", ["all_boxes", "order_boxes"], ["boxes"], axis=1),
        node("Greater", ["top", "threshold"], ["sure"]),
        node("Where", ["sure", "top", "nothing"], ["scores"]),
        node("ReduceMax", ["scores", "second"], ["highest"], keepdims=0),
        node("Greater", ["highest", "least"], ["converged"]),
    ]


def _mask_weights(side: int) -> dict[str, NDArray[np.generic]]:
    centers = ((np.arange(side) + 0.5) * MASK_STRIDE).astype(np.float32)
    left = np.zeros((1, 1, side, side), np.float32)
    left[..., : side // 2] = 1
    return {
        "left_half": left,
        "across": centers.reshape(1, 1, 1, -1),
        "down": centers.reshape(1, 1, -1, 1),
        "last_two": np.array([2, 3], np.int64),
        "fourth": np.array([3], np.int64),
    }


def _masks_of_boxes() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [node("Unsqueeze", ["scores", "last_two"], ["sure_of"]), node("Mul", ["sure_of", "left_half"], ["masks"])]


def _masks_of_the_image() -> list[onnx.NodeProto]:
    node = helper.make_node
    sides = [f"box_{side}" for side in ("left", "top", "right", "bottom")]
    return [
        node("Split", ["boxes"], sides, axis=2, num_outputs=4),
        *(node("Unsqueeze", [side, "fourth"], [f"{side}_px"]) for side in sides),
        node("Less", ["box_left_px", "across"], ["after_left"]),
        node("Less", ["box_top_px", "down"], ["after_top"]),
        node("Greater", ["box_right_px", "across"], ["before_right"]),
        node("Greater", ["box_bottom_px", "down"], ["before_bottom"]),
        node("And", ["after_left", "before_right"], ["within_columns"]),
        node("And", ["after_top", "before_bottom"], ["within_rows"]),
        node("And", ["within_columns", "within_rows"], ["within"]),
        node("Cast", ["within"], ["masks"], to=TensorProto.FLOAT),
    ]
