"""package and push: a bundle made ready for where people run engines."""

import argparse
import re
from pathlib import Path

from deploy.bundles.bundle import Bundle
from deploy.errors import ConfigError
from pipeline.answer import Answer

WEIGHTS = "weights.safetensors"


def push(args: argparse.Namespace) -> Answer:
    """Upload."""
    from deploy.shipping import hub  # with its client, an extra

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", args.repo):
        raise ConfigError(f"--repo {args.repo}: give OWNER/NAME")
    bundle = Bundle.load(Path(args.bundle))
    weights = None if args.without_weights else _weights(bundle, args)
    address = hub.push(bundle, args.repo, weights, private=args.private, engine=args.engine)
    return Answer({"repository": args.repo, "commit": address}, f"{args.repo}: {address}")


def _weights(bundle: Bundle, args: argparse.Namespace) -> Path:
    """The student's, given or from the store.

    Raises:
        ConfigError: they are not there.
    """
    made = bundle.manifest.graph.network.checkpoint
    found = Path(args.weights) if args.weights else Path(args.runs) / ".store" / made / WEIGHTS
    if not found.is_file():
        raise ConfigError(f"{found}: no weights there; give --weights FILE, --runs DIR where {made} was trained, or --without-weights")
    return found
