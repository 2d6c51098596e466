"""Does the page of `edgedistill package --web` find on real images what ONNX Runtime finds? In a headless Chromium.

Every image of a split is given to the page as its own file, and to the bundle's graph in ONNX Runtime through `predict`'s path; of ten
images, a PNG is compared, too. The last line is JSON: mAP of both, the largest differences of boxes (px) and scores, and milliseconds.
--picture writes what the page shows of the first image. Needs playwright, Chromium and, in EDGEDISTILL_ORT_WEB, the folder of the npm
package (docs/browser.md).
Usage: python benchmarks/browser.py [BUNDLE DATA] [--split val] [--picture FILE]
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploy.accuracy.judge import LabeledSplit, detect, evaluated
from deploy.bundles.bundle import Bundle
from deploy.contract import ModelContract
from deploy.prediction.detections import Detections, to_coco
from deploy.prediction.image_files import load_image
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import ort
from deploy.shipping import web
from stages.config import DataConfig
from stages.measurement.splits import labeled_split
from stages.prepare import gather

PNGS = 10
SAMPLES = Path(__file__).parents[1] / "tests" / "samples"
Found = list[dict[str, Any]]


def split_of(folder: Path, data: Path, name: str, contract: ModelContract) -> LabeledSplit:
    """The split of a COCO folder, as engines are judged on it."""
    config = DataConfig.model_validate({"dataset": "coco", "root": str(data)})
    out = folder / "data"
    out.mkdir()
    return labeled_split(gather(out, config, name, (), contract), name)


def detections(found: Found) -> Detections:
    """What the page found, as `predict` has it."""
    boxes = np.array([one["box"] for one in found], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([one["score"] for one in found], np.float32), np.array([one["label"] for one in found], np.int64))


def differences(found: Detections, wanted: Detections) -> dict[str, float]:
    """Between detections in the same order: the numbers of boxes and labels that differ, and the largest distances."""
    count = min(len(found), len(wanted))
    return {
        "missing": float(abs(len(found) - len(wanted))),
        "labels": float((found.labels[:count] != wanted.labels[:count]).sum()),
        "box_px": float(np.abs(found.boxes[:count] - wanted.boxes[:count]).max(initial=0)),
        "score": float(np.abs(found.scores[:count] - wanted.scores[:count]).max(initial=0)),
    }


def worst(rows: list[dict[str, float]]) -> dict[str, float]:
    """The largest of each difference."""
    return {key: round(max(row[key] for row in rows), 6) for key in rows[0]}


def png(file: Path) -> bytes:
    """An image as PNG."""
    written = io.BytesIO()
    with Image.open(file) as image:
        image.convert("RGB").save(written, "png")
    return written.getvalue()


def compared(page: Any, predictor: SessionPredictor, split: LabeledSplit) -> dict[str, Any]:
    """The page and ONNX Runtime on a split."""
    contract, results, wanted = predictor.contract, list[dict[str, Any]](), list[dict[str, Any]]()
    rows: dict[str, list[dict[str, float]]] = {"files": [], "pngs": []}
    times = []
    for index, (image, file) in enumerate(zip(split.truth["images"], split.images, strict=True)):
        answer = page.answer(file.read_bytes())
        times.append(answer["milliseconds"])
        found = detections(answer["objects"])
        results += to_coco(found, image["id"], contract)
        wanted += detect(predictor, split, index, "browser")
        rows["files"].append(differences(found, predictor.detect(load_image(file, contract.preprocessing))))
        if index < PNGS:
            content = png(file)
            again = detections(page.answer(content)["objects"])
            rows["pngs"].append(differences(again, predictor.detect(load_image(content, contract.preprocessing))))
    judged = {"browser": evaluated(split, results, contract).accuracy, "ort": evaluated(split, wanted, contract).accuracy}
    accuracy = {name: one.map for name, one in judged.items()}
    return {
        "images": len(split.images),
        "map": accuracy,
        **{k: worst(v) for k, v in rows.items()},
        "ms": round(statistics.median(times), 1),
    }


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?", help="a COCO folder")
    parser.add_argument("--split", default="val")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(SAMPLES))
    import web_page

    reason = web_page.why_not() or (None if args.data else "no BUNDLE and DATA are given")
    if reason is not None:
        print(json.dumps({"skipped": reason}))
        return
    bundle = Bundle.load(args.bundle)
    contract = bundle.manifest.contract
    with tempfile.TemporaryDirectory() as scratch:
        split = split_of(Path(scratch), args.data, args.split, contract)
        folder = Path(scratch) / "page"
        folder.mkdir()
        web.write_page(bundle, Path(str(web_page.ORT_WEB)), folder)
        with web_page.browsing() as browser, ort.open(bundle.file(bundle.manifest.onnx), threads=1) as session:
            with web_page.opened(browser, folder, with_policy=False) as page:
                found = compared(page, SessionPredictor(session, contract), split)
            if args.picture is not None:
                with web_page.opened(browser, folder) as page:
                    page.choose(split.images[0])
                    page.page.screenshot(path=args.picture, full_page=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
