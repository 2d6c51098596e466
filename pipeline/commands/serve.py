"""`edgedistill serve`: serves a bundle over HTTP and gRPC, or checks whether it can be served."""

import argparse
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from deploy.bundles.bundle import Bundle
from deploy.bundles.manifest import MANIFEST
from deploy.bundles.trust import Trust
from deploy.errors import ConfigError
from deploy.serving.options import ServeConfig
from pipeline.config import load
from pipeline.config.diagnose import finding, refuse_coerced
from pipeline.config.document import Document, parse
from pipeline.config.overrides import Setting, apply
from pipeline.terminal.answer import Answer


def serve(args: argparse.Namespace) -> Answer:
    """Serve until interrupted; with --check, only test whether the bundle can be served."""
    config, trust = serve_config(args), Trust.of(args.trusted, args.sha256)
    if args.check:
        from deploy.serving.model import Model

        bundle = Bundle.load(Path(args.bundle), trust)
        if not args.allow_ungated:
            bundle.refuse_ungated_here()
        model = Model.open(bundle, config)
        size = model.batcher.max_batch_size
        model.close()
        reason = bundle.why_ungated_here()
        ungated = "" if reason is None else f", UNGATED: {reason}"
        answer = {"model": model.name, "max_batch_size": size, "why_ungated": reason, "sha256": bundle.digest}
        line = f"{bundle.root}: can be served here, up to {size} images per pass{ungated}; sha256 of {MANIFEST}: {bundle.digest}"
        return Answer(answer, line)
    with hangup_ignored():
        from deploy.serving import process  # the web framework is an extra
        from deploy.serving.workers import supervisor

        serving = process.serve if config.workers == 1 else supervisor.serve
        serving(Path(args.bundle), config, allow_ungated=args.allow_ungated, trust=trust)
    return Answer({}, "")


@contextmanager
def hangup_ignored() -> Iterator[None]:
    """SIGHUP does not end a server that does not hear it yet, and has yet to load the bundle anyway."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def serve_config(args: argparse.Namespace) -> ServeConfig:
    """Section serve of the file, overridden by --set, overridden by --host, --port, --grpc-port and --workers.

    Raises:
        ConfigError: a key or a value is not allowed.
    """
    given = load(Path(args.config)).serve if args.config else ServeConfig()
    values = given.model_dump(mode="json")
    settings = tuple(Setting.parse(text, parse) for text in args.settings)
    for setting in settings:
        apply(values, setting)
    flags = {key: value for key in ("host", "port", "grpc_port", "workers") if (value := getattr(args, key)) is not None}
    values |= flags
    try:
        config = ServeConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        label = f"--{key.replace('_', '-')}" if key in flags else f"serve.{key}"
        raise ConfigError(f"{label}: {finding(first, ServeConfig)}; see docs/configuration.md") from error
    refuse_coerced(Document(values, (("serve", values),), settings), config.model_dump(mode="json"))
    return config
