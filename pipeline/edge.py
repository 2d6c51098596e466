"""The commands on a bundle: gate, predict, serve; they need the base installation only."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deploy.bundle import Bundle, Verdict
from deploy.errors import ConfigError
from pipeline.answer import Answer
from pipeline.config import ServeConfig, load
from pipeline.table import verdict_table
from stages.gate import EXIT_FAIL, EXIT_INCOMPARABLE, exit_code


def gate(args: argparse.Namespace) -> Answer:
    """The verdicts that a bundle carries. A gate that judged nothing counts here, for this is the bundle that was asked about."""
    if args.settings:
        raise ConfigError(f"--set {args.settings[0]}: {args.config} is a bundle, whose gates were judged when it was packaged; name a file")
    manifest = Bundle.load(Path(args.config)).manifest
    given = [verdict.model_dump() for verdict in manifest.verdicts]
    code = exit_code([Verdict.model_validate(verdict) for verdict in given], ())
    idle = any(verdict["verdict"] == "unmeasured" for verdict in given) and code != EXIT_FAIL
    return judged(given, EXIT_INCOMPARABLE if idle else code)


def judged(gates: Sequence[Mapping[str, Any]], code: int) -> Answer:
    """Verdicts as an answer; without any gate there is nothing to compare."""
    if not gates:
        return Answer({"gates": [], "exit_code": EXIT_INCOMPARABLE}, "no gate is set, so nothing was judged", EXIT_INCOMPARABLE)
    return Answer({"gates": gates, "exit_code": code}, verdict_table(gates), code)


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
