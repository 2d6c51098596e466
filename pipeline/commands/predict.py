"""`edgedistill predict`: the objects that a bundle finds in images."""

import argparse
from collections import Counter
from pathlib import Path

from deploy.bundles.bundle import Bundle
from deploy.errors import ConfigError
from pipeline.answer import Answer


def predict(args: argparse.Namespace) -> Answer:
    """Find objects in images and draw them."""
    from deploy.predict import predict_images  # `gate` needs no runtime

    if not 0 <= args.score <= 1:
        raise ConfigError(f"--score {args.score}: allowed: 0 to 1")
    out = Path(args.out)
    found = predict_images(Bundle.load(Path(args.bundle)), [Path(image) for image in args.images], out, min_score=args.score)
    counts = Counter(annotation["image_id"] for annotation in found["annotations"] if annotation["score"] >= args.score)
    lines = [
        f"{out / image['drawn']}: {counts[image['id']]} objects in {image['width']} x {image['height']} px" for image in found["images"]
    ]
    return Answer({"out": str(out), **found}, "\n".join(lines))
