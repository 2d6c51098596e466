"""Splits of colored cells, a detector that looks for contrast, and the same with its range of int8 clipped to what clean images have."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import artifact_samples
import numpy as np
import onnx
import onnx_samples
from onnx import helper, numpy_helper
from PIL import Image

from deploy.contract import ModelContract, Preprocessing
from stages.artifacts import FIELDS, TABLES, Dataset, Engine, OnnxModel
from stages.datasets.tables import table
from stages.facts import DatasetFacts, Split, write_facts
from stages.optimize import optimize

CELL = onnx_samples.CELL
NUM_IMAGES = 24
GRAY, STRONG, WEAK = 150, 150, 60
"""Pixels of the background, and of a cell: its own channel and the two others."""


def contract() -> ModelContract:
    """Pixels from 0 to 1."""
    preprocessing = Preprocessing(height=64, width=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return onnx_samples.contract().model_copy(update={"preprocessing": preprocessing})


def dataset(root: Path, splits: Mapping[str, int] | None = None, num_images: int = NUM_IMAGES, size: int = 64) -> Dataset:
    """Splits with one to three cells per image, by the amount by which their images are darker.

    The names are day-00.png and night-01.png alternately; images say their weather.
    """
    facts = {}
    for seed, (name, darker) in enumerate((splits or {"train": 0, "val": 0, "shifted": 60}).items()):
        random = np.random.default_rng(seed)
        folder = root / "images" / name
        folder.mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(num_images):
            pixels = np.full((size, size, 3), GRAY, np.uint8)
            cells = {(int(random.integers(size // CELL)), int(random.integers(size // CELL))): number % 3 for _ in range(1 + number % 3)}
            for (row, column), label in cells.items():
                place = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
                place[:] = WEAK
                place[..., label] = STRONG
                box = {"bbox": [column * CELL, row * CELL, CELL, CELL], "area": CELL * CELL, "iscrowd": 0}
                identity = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": onnx_samples.CATEGORY_IDS[label]}
                annotations.append({**identity, **box})
            file = f"{'day' if number % 2 == 0 else 'night'}-{number:02}.png"
            Image.fromarray(np.maximum(pixels.astype(int) - darker, 0).astype(np.uint8)).save(folder / file)
            images.append({"id": number + 1, "file_name": file, "width": size, "height": size})
        kinds = [{"id": i, "name": n} for i, n in zip(onnx_samples.CATEGORY_IDS, onnx_samples.CLASSES, strict=True)]
        truth = {"images": images, "annotations": annotations, "categories": kinds}
        (root / f"{name}.json").write_text(json.dumps(truth))
        table.write(root / TABLES / name, truth, {category: label for label, category in enumerate(onnx_samples.CATEGORY_IDS)})
        (root / FIELDS).mkdir(exist_ok=True)
        weather = {image["id"]: {"weather": "rain" if image["id"] % 4 == 0 else "dry"} for image in images}
        (root / FIELDS / f"{name}.json").write_text(json.dumps(weather))
        facts[name] = Split(images=f"images/{name}", annotations=f"{name}.json", num_images=num_images, num_boxes=len(annotations))
    write_facts(root, DatasetFacts(contract=contract(), splits=facts))
    return Dataset(root)


def graph(*, clipped: bool = False) -> onnx.ModelProto:
    """A cell is found if one channel is brighter than the others by 0.29 of the range; `clipped` stores pixels in 8 bits up to GRAY."""
    model = onnx_samples.detector()
    weights = {one.name: one for one in model.graph.initializer}
    contrast = np.zeros((3, 8, 1, 1), np.float32)
    contrast[:, :3, 0, 0] = 150 * np.eye(3) - 50
    for name, value in {"class_weight": contrast, "class_bias": np.full(3, -29, np.float32)}.items():
        weights[name].CopyFrom(numpy_helper.from_array(value, name))
    if clipped:
        scale, zero = np.array(GRAY / 255 / 255, np.float32), np.array(0, np.uint8)
        model.graph.initializer.extend([numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(zero, "zero")])
        place = next(i for i, node in enumerate(model.graph.node) if list(node.output) == ["scaled"])
        del model.graph.node[place]
        model.graph.node.insert(place, helper.make_node("QuantizeLinear", ["active", "scale", "zero"], ["stored"]))
        model.graph.node.insert(place + 1, helper.make_node("DequantizeLinear", ["stored", "scale", "zero"], ["scaled"]))
    onnx.checker.check_model(model, full_check=True)
    return model


def exported(root: Path, *, clipped: bool = False) -> OnnxModel:
    """The graph as an artifact."""
    made = artifact_samples.model(root, graph(clipped=clipped))
    write_facts(root, made.facts.model_copy(update={"contract": contract()}))
    return made


def engine(root: Path, data: Dataset, name: str, *, clipped: bool = False) -> tuple[Engine, OnnxModel]:
    """The graph as an engine that computes it as it is written."""
    model = exported(root / "model", clipped=clipped)
    (root / "engine").mkdir()
    return optimize(root / "engine", artifact_samples.target(name=name, optimization="none"), model, data), model
