"""A detector of mmdet in eager mode, for benchmarks/detectors.py, which starts this with the interpreter of an environment with mmdet.

Writes its random weights to a file in the layout of the model zoo. Then each line on standard input starts a pass over the same image as
the benchmark's, and a line on standard output ends it.
Usage: python benchmarks/mmdet_eager.py CONFIG SIZE THREADS FILE [MODULE]; CONFIG is a path below mmdet's configs. MODULE is imported
before mmdet; where mmcv has no operators of its own, it can supply them.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

NUM_CLASSES = 80
MOST_DOUBLINGS = 12


def build(config: str) -> Any:
    """A published network with random weights, in the pytorch style."""
    importlib.import_module("mmdet.utils").register_all_modules()
    package = Path(str(importlib.import_module("mmdet").__file__)).parent
    found = importlib.import_module("mmengine.config").Config.fromfile(package / ".mim" / "configs" / config)
    found.model.backbone.init_cfg = None
    if "style" in found.model.backbone:
        found.model.backbone.style = "pytorch"
    torch.manual_seed(0)
    model = importlib.import_module("mmdet.registry").MODELS.build(found.model)
    model.init_weights()
    model.eval()
    return model


def observe(model: Any, run: Callable[[], object]) -> None:
    """Give batch normalization the statistics of a pass, so that random weights keep the scale of what goes through them."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.train()
        layer.momentum = 1.0
    run()
    for layer, momentum in zip(layers, before, strict=True):
        layer.momentum = momentum
    model.eval()


def sharpen(model: Any, run: Callable[[], Any]) -> None:
    """Let heads that look at detections have as many to look at as an image may have.

    The class logits of random weights are nearly equal, so that no score would pass the threshold and those heads would be left out,
    while our graph, whose shapes are fixed, always runs them on the largest number: the layer of the logits is scaled until they differ.
    """
    head = getattr(model, "roi_head", None)
    if not (hasattr(head, "mask_head") or hasattr(head, "grid_head")):
        return
    most = model.test_cfg.rcnn.max_per_img
    logits = [module for name, module in model.named_modules() if name.endswith("fc_cls")]
    for _ in range(MOST_DOUBLINGS):
        if len(run()[0].pred_instances.scores) >= most:
            return
        for layer in logits:
            layer.weight.data *= 2
    raise RuntimeError(f"{len(run()[0].pred_instances.scores)} detections, expected {most}")


def save(model: Any, file: Path) -> None:
    """Write the weights as mmdet's trainings do."""
    version = importlib.import_module("mmdet").__version__
    classes = tuple(f"class {number}" for number in range(NUM_CLASSES))
    torch.save({"meta": {"mmdet_version": version, "dataset_meta": {"classes": classes}}, "state_dict": model.state_dict()}, file)


def passes(model: Any, size: int) -> Callable[[], Any]:
    """One pass from the network's input to boxes."""
    sample = importlib.import_module("mmdet.structures").DetDataSample
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32))

    def run() -> Any:
        one, sides = sample(), (size, size)
        one.set_metainfo(
            {"img_shape": sides, "ori_shape": sides, "pad_shape": sides, "batch_input_shape": sides, "scale_factor": (1.0, 1.0)}
        )
        with torch.no_grad():
            return model.predict(images, [one], rescale=False)

    return run


def main() -> None:
    """Answer every line after a pass."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what mmdet prints is not an answer
    config, size, threads, file, *first = sys.argv[1:]
    for module in first:
        importlib.import_module(module)
    torch.set_num_threads(int(threads))
    model = build(config)
    run = passes(model, int(size))
    observe(model, run)
    sharpen(model, run)
    save(model, Path(file))
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        run()
        print("done", file=answers, flush=True)


if __name__ == "__main__":
    main()
