"""The bundle: everything needed to deploy one engine, and to know where it came from."""

import platform
import shutil
from pathlib import Path

from deploy.bundles import bundle
from deploy.bundles.card import CARD, LABELS, label_lines, model_card
from deploy.bundles.manifest import MANIFEST, Manifest, Plan, Provenance, Verdict
from deploy.comparison import metrics
from deploy.contract import GraphFacts
from deploy.engines import int8_training
from deploy.engines.int8_training import INT8
from deploy.machine import packages, platform_name
from stages.artifacts import ONNX, Artifact, Engine, Gains, Measurement, OnnxModel, Package, Report, Robustness, Verdicts
from stages.config import PackageConfig
from stages.facts import PackageFacts, write_facts
from stages.stage import stage


@stage(version=10)
def package(
    out: Path,
    config: PackageConfig,
    plan: Plan,
    engine: Engine,
    model: OnnxModel,
    report: Report,
    measurement: Measurement,
    verdicts: Verdicts,
    gains: Gains | None = None,
    robustness: Robustness | None = None,
) -> Package:
    """Copy engine and graph, write labels, manifest and model card; also if nothing was measured or no engine was built."""
    name = engine.facts.file
    if name is not None:
        shutil.copyfile(engine.file(name), out / name)
    shutil.copyfile(model.file(ONNX), out / ONNX)
    ranges = [INT8] if built_for_int8(model) else []
    for file in ranges:
        shutil.copyfile(model.file(file), out / file)
    (out / LABELS).write_text(label_lines(engine.facts.contract.classes), encoding="utf-8")
    manifest = _manifest(config, plan, engine, model, report, measurement, verdicts, gains, robustness)
    (out / CARD).write_text(model_card(manifest), encoding="utf-8")
    files = [ONNX, LABELS, CARD, *ranges, *([name] if name is not None else [])]
    bundle.write(out, manifest, files)
    write_facts(out, PackageFacts(target=manifest.target, sha256=bundle.sha256(out / MANIFEST)))
    return Package(out)


def built_for_int8(model: OnnxModel) -> bool:
    """Whether the graph comes with the ranges that it was trained with, which building its engine elsewhere needs."""
    trained = int8_training.read(model.root)
    return trained is not None and trained.kept


def _manifest(
    config: PackageConfig,
    plan: Plan,
    engine: Engine,
    model: OnnxModel,
    report: Report,
    measurement: Measurement,
    verdicts: Verdicts,
    gains: Gains | None,
    robustness: Robustness | None,
) -> Manifest:
    graph, built, measured, timed = model.facts, engine.facts, report.facts, measurement.facts
    names = _names(model, engine, report, measurement, verdicts, gains, robustness)
    return Manifest(
        name=f"{graph.network.detector}-{built.target}",
        target=built.target,
        runtime=built.runtime,
        precision=built.precision,
        options=built.options,
        engine=built.file,
        onnx=ONNX,
        files={},
        contract=built.contract,
        graph=GraphFacts.model_validate(graph.model_dump(exclude={"contract"})),
        plan=plan,
        accuracy=measured.accuracy,
        gain=None if gains is None else gains.facts,
        robustness=None if robustness is None else robustness.facts.engines.get(built.target),
        latency=timed.latency(built.target),
        speedups={name: ratio for name, ratio in timed.speedups(built.target).items() if name in metrics.SPEEDUPS.values()},
        data=measured.data,
        cost=built.cost,
        lowest_ms=measured.lowest_ms,
        fallback=built.fallback,
        choice=built.choice,
        int8=built.int8,
        verdicts=tuple(Verdict.model_validate(one.model_dump()) for one in verdicts.facts.verdicts),
        why=measured.why,
        fingerprint=built.fingerprint,
        machine=measured.machine,
        proof=built.proof,
        engine_proof=measured.proof,
        provenance=_provenance({"student": graph.network.checkpoint, **names}),
        license=config.license,
        description=config.description,
    )


def _provenance(artifacts: dict[str, str]) -> Provenance:
    return Provenance(
        edgedistill=packages.version(packages.DISTRIBUTION) or "unknown",
        python=platform.python_version(),
        platform=platform_name(),
        packages=packages.installed(),
        git_commit=packages.git_commit(Path.cwd()),
        artifacts=artifacts,
    )


def _names(*inputs: Artifact | None) -> dict[str, str]:
    """The store's folders of those inputs that there are."""
    kinds = ("onnx", "engine", "report", "measurement", "verdicts", "gains", "robustness")
    return {kind: artifact.root.name for kind, artifact in zip(kinds, inputs, strict=True) if artifact is not None}
