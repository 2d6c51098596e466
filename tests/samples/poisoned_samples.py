"""A detector whose int8 loses what its fp32 finds, and data without labels."""

import json

import numpy as np
import onnx
import onnx_samples
from onnx import helper, numpy_helper

from stages.artifacts import Dataset


def deeper(*, poisoned: bool) -> onnx.ModelProto:
    """The sample with three more layers that change nothing; poisoned, one channel between the first two layers is 1,000 times as strong.

    That channel's weights in the second layer are 1,000 times weaker, so that the function of the float graph is the same.
    """
    model = onnx_samples.detector()
    nodes = list(model.graph.node)
    last = next(i for i, node in enumerate(nodes) if "features" in node.output)
    nodes[last].output[0] = "features_0"
    model.graph.initializer.append(numpy_helper.from_array(np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1), "same"))
    for number in range(3):
        end = "features" if number == 2 else f"features_{number + 1}"
        added = [
            helper.make_node("Conv", [f"features_{number}", "same"], [f"same_{number}"], name=f"same_{number}"),
            helper.make_node("Relu", [f"same_{number}"], [end], name=f"relu_{number}"),
        ]
        nodes[last + 1 + 2 * number : last + 1 + 2 * number] = added
    for node in nodes:
        if "stem" in node.output or "pooled" in node.output:
            node.name = {"stem": "first", "pooled": "second"}[node.output[0]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for weight in model.graph.initializer:
        if poisoned and weight.name in ("stem_weight", "pool_weight"):
            values = numpy_helper.to_array(weight).copy()
            if weight.name == "stem_weight":
                values[0] *= 1000
            else:
                values[:, 0] /= 1000
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.checker.check_model(model, full_check=True)
    return model


def unlabel(data: Dataset) -> None:
    """Take all boxes from split val."""
    file = data.annotations("val")
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
