"""`edgedistill sign`: signs a bundle, with its provenance, so that --trusted accepts it."""

import argparse
import json
import os
import sys
from pathlib import Path

from deploy.bundles import signature
from deploy.bundles.bundle import Bundle
from deploy.bundles.manifest import MANIFEST, read_manifest
from deploy.bundles.provenance import PROVENANCE, statement
from deploy.bundles.signature import SIGNATURE
from deploy.bundles.trust import Trust
from pipeline.store.files import replace_text
from pipeline.store.past import past_stages
from pipeline.terminal.answer import Answer, say

PASSWORD = "EDGEDISTILL_KEY_PASSWORD"  # noqa: S105 - the name of the variable
"""The variable with the password of an encrypted key."""


def sign(args: argparse.Namespace) -> Answer:
    """Check the bundle, then write provenance and signature into it: the files that were checked are those that are signed."""
    folder = Path(args.bundle)
    _, digest = read_manifest(folder)
    bundle = Bundle.load(folder, Trust(sha256=digest))
    copy = bundle.file(MANIFEST).parent
    names = set(bundle.manifest.provenance.artifacts.values())
    stages = past_stages(Path(args.runs), names)
    provenance = json.dumps(statement(bundle.manifest, digest, stages), indent=2, allow_nan=False) + "\n"
    (copy / SIGNATURE).unlink(missing_ok=True)
    (copy / PROVENANCE).write_text(provenance, encoding="utf-8")
    made = copy.parent / SIGNATURE
    signature.sign(copy, made, None if args.key is None else Path(args.key), os.environ.get(PASSWORD))
    replace_text(folder / PROVENANCE, provenance)
    replace_text(folder / SIGNATURE, made.read_text(encoding="utf-8"))
    bundle.close()
    if missing := sorted(names - set(stages)):
        known = "so the provenance has only the configuration in the manifest; name the folder of the run with --runs"
        say(f"{args.runs}: does not know {missing[0]}, {known}", sys.stderr)
    data = {"bundle": str(folder), "sha256": digest, "signature": str(folder / SIGNATURE), "provenance": str(folder / PROVENANCE)}
    return Answer(data, f"{folder}: signed, {SIGNATURE} and {PROVENANCE}; sha256 of {MANIFEST}: {digest}")
