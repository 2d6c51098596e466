"""The network of a bundle as the compilers of NPUs want it (RKNN, Hailo): one image in, maps [1, C, H, W] out, no rows yet.

Takes a bundle whose boxes are decoded on the host. Writes network.onnx, and maps.json: for each raw output of the contract the maps that
it is made of, level by level, and whether negative numbers become 0. `rows` makes raw outputs of maps again; the program runs both graphs
on a random image and compares them.
Usage: python examples/npu_graph.py BUNDLE OUT
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto
from onnx.utils import Extractor
from onnxruntime import InferenceSession

from deploy.bundles.bundle import Bundle
from deploy.errors import ArtifactError
from deploy.runtimes.onnx_files.plain import fix_batch

Floats = NDArray[np.float32]
_MOVING = ("Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")
"""Operators that move numbers and compute nothing."""


class RawMaps(NamedTuple):
    """The maps that an output's rows are moved from, in the order of its levels; `relu`: then negative numbers become 0."""

    maps: list[str]
    relu: bool


def maps_of(model: ModelProto, output: str) -> RawMaps:
    """What an output is made of."""
    makers = {name: node for node in model.graph.node for name in node.output}
    last = makers[output]
    relu = last.op_type == "Relu" and makers[last.input[0]].op_type in _MOVING
    return RawMaps(_sources(last.input[0] if relu else output, makers), relu)


def _sources(name: str, makers: Mapping[str, NodeProto]) -> list[str]:
    node = makers.get(name)
    if node is None or node.op_type not in _MOVING:
        return [name]
    own = list(node.input) if node.op_type == "Concat" else [node.input[0]]
    return [source for one in own for source in _sources(one, makers)]


def rows(maps: Sequence[Floats], anchors: Sequence[int], *, relu: bool) -> Floats:
    """The raw output [1, N, ...] of its maps [1, C, H, W], with this number of anchors per position at each level."""
    found = np.concatenate([_level(one, count) for one, count in zip(maps, anchors, strict=True)], axis=1)
    return np.maximum(found, np.float32(0)) if relu else found


def _level(one: Floats, anchors: int) -> Floats:
    _, channels, height, width = one.shape
    return one.reshape(1, anchors, channels // anchors, height, width).transpose(0, 3, 4, 1, 2).reshape(1, height * width * anchors, -1)


def cut(bundle: Bundle, out: Path) -> dict[str, RawMaps]:
    """Write the network and the maps of each raw output, by name.

    Raises:
        ArtifactError: boxes are decoded in the graph, or its rows are not simply those of maps.
    """
    decoding = bundle.manifest.contract.decoding
    if decoding is None:
        raise ArtifactError(f"{bundle.root}: its boxes are decoded in the graph; export with export.decode: host")
    model = onnx.load(str(bundle.file(bundle.manifest.onnx)))
    fix_batch(model)
    found: dict[str, RawMaps] = {name: maps_of(model, name) for name in decoding.outputs}
    names = list(dict.fromkeys(name for own in found.values() for name in own.maps))
    network = Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(["images"], names)
    onnx.save(network, str(out / "network.onnx"))
    (out / "maps.json").write_text(json.dumps({name: own._asdict() for name, own in found.items()}, indent=1) + "\n", encoding="utf-8")
    return found


def check(bundle: Bundle, out: Path, found: Mapping[str, RawMaps]) -> float:
    """The largest difference between the bundle's raw outputs and those made of maps, for a random image."""
    decoding, size = bundle.manifest.contract.decoding, bundle.manifest.contract.preprocessing
    assert decoding is not None
    anchors = [len(level.anchors) for level in decoding.levels]
    images = np.random.default_rng(0).standard_normal((1, 3, size.height, size.width)).astype(np.float32)
    worst = 0.0
    whole, network = (
        InferenceSession(str(file), providers=["CPUExecutionProvider"])
        for file in (bundle.file(bundle.manifest.onnx), out / "network.onnx")
    )
    for name, expected in zip(decoding.outputs, whole.run(list(decoding.outputs), {"images": images}), strict=True):
        made = rows(network.run(found[name].maps, {"images": images}), anchors, relu=found[name].relu)
        worst = max(worst, float(np.abs(made.reshape(expected.shape) - expected).max()))
    return worst


def main() -> None:
    """Cut, compare and print."""
    bundle, out = Bundle.load(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True)
    found = cut(bundle, out)
    count = sum(len(one.maps) for one in found.values())
    print(f"{out / 'network.onnx'}: {count} maps; rows made of them differ by at most {check(bundle, out, found):g}")


if __name__ == "__main__":
    main()
