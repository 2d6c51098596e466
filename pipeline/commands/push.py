"""`edgedistill push`: uploads a bundle to a model hub."""

import argparse
import re
from pathlib import Path

from deploy.bundles.bundle import Bundle
from deploy.bundles.trust import Trust
from deploy.errors import ArtifactError, ConfigError
from pipeline.store.stamp import changed
from pipeline.terminal.answer import Answer
from stages.artifacts import WEIGHTS


def push(args: argparse.Namespace) -> Answer:
    """Upload weights, graph and model card."""
    from deploy.shipping import hub  # its client is an extra

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", args.repo):
        raise ConfigError(f"--repo {args.repo}: allowed: OWNER/NAME")
    bundle = Bundle.load(Path(args.bundle), Trust.of(args.trusted, args.sha256))
    weights = None if args.without_weights else _weights(bundle, args)
    address = hub.push(bundle, args.repo, weights, private=args.private, engine=args.engine)
    return Answer({"repository": args.repo, "commit": address}, f"{args.repo}: {address}")


def _weights(bundle: Bundle, args: argparse.Namespace) -> Path:
    """The file of the student's weights, from --weights or from the store.

    Raises:
        ConfigError: the file does not exist.
        ArtifactError: the store's has changed.
    """
    made = bundle.manifest.graph.network.checkpoint
    found = Path(args.weights) if args.weights else Path(args.runs) / ".store" / made / WEIGHTS
    if not args.weights and (name := changed(found.parent)) is not None:
        raise ArtifactError(f"{found.parent / name}: is not as it was written; run the pipeline again, or pass --weights FILE")
    if not found.is_file():
        raise ConfigError(f"{found}: no such file; pass --weights FILE, the --runs DIR in which {made} was trained, or --without-weights")
    return found
