"""The commands on a bundle: predict, serve; they need the base installation only."""

import argparse
from collections import Counter
from pathlib import Path

from pydantic import ValidationError

from deploy.bundle import Bundle
from deploy.errors import ConfigError
from pipeline.answer import Answer
from pipeline.config import ServeConfig, load


def predict(args: argparse.Namespace) -> Answer:
    """Draw what a bundle finds in images."""
    from deploy.predict import predict as draw  # `gate` needs no runtime

    if not 0 <= args.score <= 1:
        raise ConfigError(f"--score {args.score}: allowed: 0 to 1")
    out = Path(args.out)
    found = draw(Bundle.load(Path(args.bundle)), [Path(image) for image in args.images], out, min_score=args.score)
    counts = Counter(annotation["image_id"] for annotation in found["annotations"] if annotation["score"] >= args.score)
    lines = [
        f"{out / image['drawn']}: {counts[image['id']]} objects in {image['width']} x {image['height']} px" for image in found["images"]
    ]
    return Answer({"out": str(out), **found}, "\n".join(lines))


def serve(args: argparse.Namespace) -> Answer:
    """Serve until interrupted."""
    from deploy import server  # the web framework is an extra

    config = load(Path(args.config)).serve if args.config else ServeConfig()
    chosen = {key: value for key, value in (("host", args.host), ("port", args.port)) if value is not None}
    try:
        config = ServeConfig.model_validate({**config.model_dump(), **chosen})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][0]} {first['input']}: {first['msg']}; see edgedistill serve --help") from error
    server.serve(Path(args.bundle), host=config.host, port=config.port, allow_ungated=args.allow_ungated)
    return Answer({}, "")
