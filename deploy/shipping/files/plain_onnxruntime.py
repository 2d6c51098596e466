"""Runs a bundle without edgedistill: python plain_onnxruntime.py BUNDLE photo.jpg. Needs numpy, onnxruntime and Pillow.

It runs model.onnx, the graph that the engine was built from; the graph itself decodes boxes and removes overlaps. This file is all
that has to be ported to a different language: resize, pad, scale, run, and convert back to px of the image.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}


def detect(bundle: Path, photo: Path) -> list[dict[str, Any]]:
    """Category, score and [x, y, width, height] in px of every object, the most certain first."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    contract = manifest["contract"]
    session = onnxruntime.InferenceSession(bundle / manifest["onnx"], providers=["CPUExecutionProvider"])
    if contract["preprocessing"].get("reduced_decoding"):
        raise SystemExit("this program decodes photos in full, but the network was trained with data.preprocessing.reduced_decoding")
    image = decode(ImageOps.exif_transpose(Image.open(photo)), contract["preprocessing"])
    if contract.get("decoding"):
        raise SystemExit("this program runs graphs that decode boxes themselves; this one was exported with export.decode: host")
    images, scale, shift = prepare(image, contract["preprocessing"])
    boxes, scores, labels, converged = session.run(["boxes", "scores", "labels", "converged"], {"images": images})
    if not converged[0]:
        raise SystemExit("the graph's NMS did not converge")
    found = []
    for box, score, label in zip(boxes[0], scores[0], labels[0], strict=True):
        if score > 0:  # the rest is padding
            corners = (box.astype(np.float64) - shift) / scale
            x1, y1, x2, y2 = np.clip(corners, 0, [image.width, image.height] * 2).tolist()
            name = contract["classes"][label]
            found.append({"category": name, "score": float(score), "bbox": [x1, y1, x2 - x1, y2 - y1]})
    return found


def decode(image: Image.Image, options: dict[str, Any]) -> Image.Image:
    """The image as RGB of 8 bits: 16-bit gray scaled to `white`, transparency blended over black or ignored. 16-bit color: white 65535."""
    if image.mode.startswith("I"):
        values = np.minimum(np.asarray(image), options["white"]).astype(np.uint32)
        image = Image.fromarray(((values * 510 + options["white"]) // (2 * options["white"])).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if options["alpha"] == "ignore":
            image.putalpha(255)
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")


def prepare(image: Image.Image, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The network's input [1, 3, H, W], and the scale and shift from px of the image to px of the input, for (x1, y1, x2, y2)."""
    width, height = options["width"], options["height"]
    if options["resize"] == "stretch":
        size = width, height
    else:  # letterbox, shortest_edge: the aspect ratio is kept
        factor = min(width / image.width, height / image.height)
        size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    left, top = ((width - size[0]) // 2, (height - size[1]) // 2) if options["resize"] == "letterbox" else (0, 0)
    canvas = Image.new("RGB", (width, height), (options["pad_value"],) * 3)
    canvas.paste(image if size == image.size else image.resize(size, SAMPLING[options["interpolation"]]), (left, top))
    pixels = np.asarray(canvas, np.float32) / 255
    if options["color"] == "bgr":
        pixels = pixels[..., ::-1]
    scaled = (pixels - np.array(options["mean"], np.float32)) / np.array(options["std"], np.float32)
    scale = np.array([size[0] / image.width, size[1] / image.height] * 2)
    return scaled.transpose(2, 0, 1)[None].astype(np.float32), scale, np.array([left, top] * 2, np.float64)


if __name__ == "__main__":
    print(json.dumps(detect(Path(sys.argv[1]), Path(sys.argv[2])), indent=1))
