"""`edgedistill predict`: the objects that a bundle finds in images and videos."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from deploy.bundles.bundle import Bundle
from deploy.bundles.trust import Trust
from deploy.errors import ConfigError, DataError, Interrupted, plain
from deploy.prediction.inputs import expand
from pipeline.terminal.answer import Answer, say


def predict(args: argparse.Namespace) -> Answer:
    """Find objects in images and videos and draw them; one that cannot be read is named, and the others are done."""
    from deploy.predict import predict_images  # `gate` needs no runtime

    if not 0 <= args.score <= 1:
        raise ConfigError(f"--score {args.score}: allowed: 0 to 1")
    if args.every is not None and args.every < 1:
        raise ConfigError(f"--every {args.every}: allowed: 1 (all frames) and above")
    bundle, out = Bundle.load(Path(args.bundle), Trust.of(args.trusted, args.sha256)), Path(args.out)
    images = expand(args.images, sys.stdin.buffer.read, leave_out=out)
    try:
        found = predict_images(bundle, images, out, min_score=args.score, every=args.every)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; nothing was written") from error
    for failure in found["failed"]:
        say(f"edgedistill: left out: {failure['error']}", sys.stderr)
    counts = Counter(annotation["image_id"] for annotation in found["annotations"] if annotation["score"] >= args.score)
    lines = [
        f"{out / image['drawn']}: {counts[image['id']]} objects in {image['width']} x {image['height']} px" for image in found["images"]
    ]
    code = DataError.exit_code if found["failed"] else 0
    return Answer({"out": str(out), **found, "exit_code": code}, "\n".join(map(plain, lines)), code)
