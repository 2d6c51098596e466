"""A bundle's own engine as an artifact, for machines that run it and cannot build it."""

import sys
from pathlib import Path

from deploy import plugins
from deploy.bundles.bundle import Bundle
from deploy.machine import files
from deploy.runtimes import PACKAGE, why_not_build
from pipeline.terminal.answer import say
from stages.artifacts import Engine
from stages.config import TargetConfig
from stages.facts import EngineFacts, write_facts


def shipped_engine(given: Bundle, target: TargetConfig, scratch: Path) -> Engine | None:
    """The bundle's engine, in a folder inside `scratch`, if it is the target's, runs here and cannot be built here; otherwise None."""
    manifest = given.manifest
    own = manifest.target, manifest.runtime, manifest.precision, dict(manifest.options)
    if manifest.engine is None or own != (target.name, target.runtime, target.precision, dict(target.options)):
        return None
    runtime, why = plugins.load(PACKAGE, manifest.runtime), why_not_build(target.runtime, target.options)
    if why is None or runtime.why_not() is not None or runtime.foreign(manifest.fingerprint) is not None:
        return None
    say(f"target {target.name}: {why}; the bundle's own engine, which runs here, is judged", sys.stderr)
    folder = scratch / manifest.provenance.artifacts.get("engine", "optimize-unknown")
    folder.mkdir()
    for name in given.parts(manifest.engine):
        files.copy(given.file(name), folder / name)
    facts = EngineFacts(
        target=target.name,
        runtime=manifest.runtime,
        precision=manifest.precision,
        options=dict(manifest.options),
        required=target.required,
        contract=manifest.contract,
        file=manifest.engine,
        typed=None,
        sha256=manifest.files[manifest.engine],
        bytes=(folder / manifest.engine).stat().st_size,
        onnx_sha256=manifest.graph.sha256,
        fingerprint=manifest.fingerprint,
        proof=manifest.proof,
        cost=manifest.cost,
        fallback=manifest.fallback,
        choice=manifest.choice,
        int8=manifest.int8,
        why=None,
    )
    write_facts(folder, facts)
    return Engine(folder)
