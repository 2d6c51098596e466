"""`edgedistill package`: everything that Docker, Triton and KServe need."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.bundles.bundle import Bundle
from deploy.bundles.manifest import MANIFEST
from deploy.bundles.trust import Trust
from deploy.errors import ConfigError
from deploy.shipping.ship import ship
from deploy.shipping.web import write_page
from pipeline.store.files import replace_folder
from pipeline.terminal.answer import Answer


def package(args: argparse.Namespace) -> Answer:
    """Write the folder, completely or not at all."""
    bundle, out = Bundle.load(Path(args.bundle), Trust.of(args.trusted, args.sha256)), Path(args.out).resolve()
    if args.ort_web and not args.web:
        raise ConfigError("--ort-web is part of a page: pass --web, too, or leave it out")
    if out.exists():
        raise ConfigError(f"--out {out}: already exists; choose a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        made = Path(scratch) / out.name
        made.mkdir()
        if args.web:
            write_page(bundle, Path(args.ort_web) if args.ort_web else None, made)
        else:
            ship(bundle, made, image=args.image)
        replace_folder(made, out)
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and out / "bundle" not in path.parents)
    lines = [
        f"{out}: a page; serve it as static files" if args.web else f"{out}: bundle/",
        *(f"  {file}" for file in files),
        f"sha256 of {args.bundle if args.web else 'bundle'}/{MANIFEST}: {bundle.digest}",
    ]
    bundle.close()
    return Answer({"out": str(out), "files": files, "sha256": bundle.digest}, "\n".join(lines))
