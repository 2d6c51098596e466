"""`edgedistill build`: rebuilds a bundle's engine for this machine, measures and judges it here, and writes it to a new bundle."""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pydantic import ValidationError

from deploy import plugins
from deploy.bundles.bundle import Bundle
from deploy.bundles.manifest import MANIFEST, Manifest, Plan
from deploy.bundles.trust import Trust
from deploy.comparison import metrics
from deploy.engines import int8_training
from deploy.engines.int8_training import INT8
from deploy.errors import EXIT_INCOMPARABLE, ArtifactError, ConfigError, Interrupted, RuntimeUnavailable
from deploy.machine import files
from deploy.plugins import suggest
from deploy.runtimes import AUTO, PACKAGE, on_site
from pipeline.images import announce
from pipeline.results.table import choice_table, verdict_table
from pipeline.shipped_engine import shipped_engine
from pipeline.store.files import replace_folder
from pipeline.store.store import Store
from pipeline.terminal.answer import Answer, say, silent
from stages import artifacts
from stages.artifacts import ONNX, Dataset, Gains, OnnxModel
from stages.config import DataConfig, GateConfig, PackageConfig, TargetConfig, ValidationConfig
from stages.datasets.layouts.recognize import recognize
from stages.facts import FACTS, OnnxFacts, write_facts
from stages.gate import gate
from stages.measure import measure
from stages.measurement.crowded import noted
from stages.measurement.verdicts import exit_code
from stages.notes import note_lines
from stages.optimize import judging, optimize
from stages.package import package
from stages.prepare import gather
from stages.validate import validate

MAX_DROP = 0.01
"""mAP that target `auto` may lose if no target of the bundle has a limit."""


class GivenData(NamedTuple):
    """Images to judge on, from the command line: --data and --max-doubtful, None where not given."""

    folder: str | None
    max_doubtful: float | None


def build(args: argparse.Namespace) -> Answer:
    """Build, measure, judge and package; whatever the verdicts, the new bundle is written completely or not at all."""
    given = with_auto(Bundle.load(Path(args.bundle), Trust.of(args.trusted, args.sha256)), args.target)
    out = Path(args.out).resolve()
    target, every, validation = plan(given, args.target)
    data = GivenData(args.data, args.max_doubtful)
    validation = judged_on(args.split, data, validation)
    gates = _alone(every)
    if out.exists():
        raise ConfigError(f"--out {out}: already exists; choose a new folder")
    if args.data is None and target.needs_calibration and not _has_ranges(given, target):
        raise ConfigError(
            f"target {target.name}: precision {target.precision} needs images to read ranges from or to judge on; pass --data DIR"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _build(given, target, gates, validation, data, out)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; nothing was written") from error
    return _answer(Bundle.load(out), target, gates)


def _build(
    given: Bundle, target: TargetConfig, gates: tuple[GateConfig, ...], validation: ValidationConfig, data: GivenData, out: Path
) -> None:
    """Write the new bundle, completely or not at all."""
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        store = Store(Path(scratch), target.name, say=partial(say, stream=sys.stderr)).at(target.name)
        dataset = _data(store, data, validation.split, target, given)
        target = _calibrated(given, target, dataset, validation.split)
        made = _make(store, Path(scratch), given, target, gates, validation, dataset)
        (made.root / FACTS).unlink()
        (made.root / "stage.json").unlink()
        replace_folder(made.root, out)


def with_auto(given: Bundle, name: str | None) -> Bundle:
    """The bundle, with a target `auto` in its plan if that is the name and the plan has none.

    It is as the bundle's own target, gates included, but for runtime, precision and training for int8. If that has no limit on the drop
    of mAP, the smallest one of the other targets applies, or MAX_DROP.
    """
    carried = given.manifest.plan
    targets = {one["name"]: one for one in carried.targets}
    own = targets.get(given.manifest.target)
    if name != AUTO or AUTO in targets or own is None:
        return given
    limits = [one["max_map_drop"] for one in (own, *carried.targets) if one.get("max_map_drop") is not None]
    limit = limits[0] if own.get("max_map_drop") is not None else min(limits, default=MAX_DROP)
    say(f"target {AUTO}: may lose {limit:g} mAP; gates as for {given.manifest.target}", sys.stderr)
    added = {**own, "name": AUTO, "runtime": AUTO, "precision": AUTO, "max_map_drop": limit, "int8": None}
    gates = [{**gate, "target": AUTO} for gate in carried.gates if gate.get("target") == given.manifest.target]
    whole = carried.model_copy(update={"targets": (*carried.targets, added), "gates": (*carried.gates, *gates)})
    return replace(given, manifest=given.manifest.model_copy(update={"plan": whole}))


def plan(given: Bundle, name: str | None) -> tuple[TargetConfig, tuple[GateConfig, ...], ValidationConfig]:
    """The target of this name (None: the bundle's own), set for this machine's device; its gates, and how it is measured.

    Raises:
        ConfigError: the bundle has no such target.
        ArtifactError: its plan is invalid.
    """
    carried: Plan = given.manifest.plan
    try:
        targets = {one.name: one for one in map(TargetConfig.model_validate, carried.targets)}
        gates = tuple(GateConfig.model_validate(one) for one in carried.gates)
        validation = ValidationConfig.model_validate(carried.validation)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(
            f"{given.root / MANIFEST}: plan: {'.'.join(map(str, first['loc']))}: {first['msg']}; package the bundle again"
        ) from error
    wanted = given.manifest.target if name is None else name
    if wanted not in targets:
        raise ConfigError(f"--target {wanted}{suggest(wanted, targets)}: the bundle has {', '.join(targets)}")
    target = targets[wanted]
    here = target.model_copy(update=dict(on_site(target.runtime, target.options)))
    return here, tuple(one for one in gates if one.target in (None, wanted)), validation


def _alone(gates: tuple[GateConfig, ...]) -> tuple[GateConfig, ...]:
    """The gates that need only the bundle; the others are reported, and were judged when the pipeline ran."""
    others = {one: (one.other if one.other != "reference" else None) or one.network for one in gates}
    left = {one: other.replace("_", " ") for one, other in others.items() if other is not None}
    for one, other in left.items():
        say(f"gate {one.name or one.metric} compares with {other}, which no bundle contains: it is not judged here", sys.stderr)
    elsewhere = [one for one in gates if metrics.is_robust(one.metric) and one not in left]
    for one in elsewhere:
        say(f"gate {one.name or one.metric} is on {one.metric}, which only a pipeline measures: it is not judged here", sys.stderr)
    return tuple(one for one in gates if one not in left and one not in elsewhere)


def again(given: Bundle, scratch: Path, *, dataset: Dataset | None) -> Bundle:
    """The bundle with its engine rebuilt for this machine from its own graph, in a folder inside `scratch`; not judged.

    Raises:
        RuntimeUnavailable: the engine cannot be built or run here.
        ConfigError: int8 without images to read ranges from.
    """
    target, _, validation = plan(given, None)
    if dataset is None and target.needs_calibration and not _has_ranges(given, target):
        raise ConfigError(f"target {target.name}: precision {target.precision} needs images to read ranges from; pass --data DIR")
    store = Store(scratch, target.name, say=silent).at(target.name)
    carried = given.manifest.plan.model_copy(update={"gates": ()})  # a plan's gates need verdicts
    unjudged = replace(given, manifest=given.manifest.model_copy(update={"plan": carried}))
    made = _make(store, scratch, unjudged, _calibrated(given, target, dataset, validation.split), (), validation, dataset)
    return Bundle.load(made.root)


def _has_ranges(given: Bundle, target: TargetConfig) -> bool:
    """Whether the bundle's graph was trained for the target's int8, so that no images are needed to read ranges from."""
    if INT8 not in given.manifest.files or target.max_map_drop is not None or target.is_chosen:
        return False
    trained, recipe = int8_training.read(given.file(INT8).parent), getattr(plugins.load(PACKAGE, target.runtime), "INTEGERS", None)
    return trained is not None and recipe is not None and (trained.fits(recipe) or trained.fits(recipe.for_training))


def judged_on(split: str | None, data: GivenData, validation: ValidationConfig) -> ValidationConfig:
    """How a bundle is measured, on the split that was asked for; None: the bundle's own.

    Raises:
        ConfigError: a split or a share without data; a share that is none.
    """
    share = None if data.max_doubtful is None else f"--max-doubtful {data.max_doubtful:g}"
    given = share if split is None else f"--split {split}"
    if given is not None and data.folder is None:
        raise ConfigError(f"{given}: there is no data to judge on; pass --data DIR")
    if data.max_doubtful is not None and not 0 <= data.max_doubtful <= 1:
        raise ConfigError(f"{share}: allowed: 0 to 1")
    return validation if split is None else validation.model_copy(update={"split": split})


def data_for(given: Bundle, data: GivenData, validation: ValidationConfig, scratch: Path) -> Dataset:
    """The images to judge a bundle on."""
    target = plan(given, None)[0]
    found = _data(Store(scratch, target.name, say=silent).at(target.name), data, validation.split, target, given)
    assert found is not None
    for line in note_lines(noted(found, given.manifest.graph.max_detections)):
        say(line, sys.stderr)
    return found


def _data(store: Store, data: GivenData, split: str, target: TargetConfig, given: Bundle) -> Dataset | None:
    """The images to judge on and, if the target needs them, those to read ranges from, in any layout."""
    if data.folder is None:
        return None
    contract = given.manifest.contract
    kind, options = recognize(Path(data.folder))
    share = {} if data.max_doubtful is None else {"max_doubtful": data.max_doubtful}
    config = DataConfig.model_validate({"dataset": kind, **options, "preprocessing": contract.preprocessing, **share})
    more = (target.calibration_split,) if target.needs_calibration else ()
    dataset = store.run(gather, config, split, more, contract)
    announce(noted(dataset, given.manifest.graph.max_detections), store)
    return dataset


def _calibrated(given: Bundle, target: TargetConfig, dataset: Dataset | None, split: str) -> TargetConfig:
    """The target; if the data lacks its calibration split, ranges are read from the split to judge on, and a line reports that."""
    needed = target.needs_calibration and not _has_ranges(given, target)
    if dataset is None or not needed or target.calibration_split in dataset.facts.splits:
        return target
    say(f"the data has no split {target.calibration_split}: int8 ranges are read from {split}, on which mAP is also measured", sys.stderr)
    return target.model_copy(update={"calibration_split": split})


def _make(
    store: Store,
    scratch: Path,
    given: Bundle,
    target: TargetConfig,
    gates: tuple[GateConfig, ...],
    validation: ValidationConfig,
    dataset: Dataset | None,
) -> artifacts.Package:
    """The stages of a run that come after export.

    Raises:
        RuntimeUnavailable: the engine cannot be built here.
        ArtifactError: the graph's tensors are in other files.
    """
    manifest = given.manifest
    if len(parts := given.parts(manifest.onnx)) > 1:
        raise ArtifactError(
            f"{given.root / manifest.onnx}: has tensors in {parts[1]}; build needs them inside, so export it without others"
        )
    folder = scratch / manifest.provenance.artifacts.get("onnx", f"export-{manifest.graph.sha256[:16]}")
    folder.mkdir()
    files.copy(given.file(manifest.onnx), folder / ONNX)
    if INT8 in manifest.files:
        files.copy(given.file(INT8), folder / INT8)
        if target.max_map_drop is not None and not target.is_chosen:
            limited = f"target {target.name}: the drop of mAP is measured from the trained network's own float graph"
            say(f"{limited}; the student's, before it was trained for int8, is in no bundle", sys.stderr)
    write_facts(folder, OnnxFacts(contract=manifest.contract, **dict(manifest.graph)))
    model = OnnxModel(folder)
    engine = shipped_engine(given, target, scratch) or store.run(optimize, target, model, dataset, *judging(target, validation))
    if engine.facts.why is not None:
        raise RuntimeUnavailable(f"target {target.name}: {engine.facts.why}")
    report = store.run(validate, validation, engine, dataset)
    measurement = store.run(measure, validation.latency, validation.split, {target.name: engine}, dataset)
    verdicts = store.run(gate, gates, validation, dataset, engine, model, report, measurement, {}, {}, {}, {})
    words = PackageConfig(license=manifest.license, description=manifest.description)
    return store.run(package, words, manifest.plan, engine, model, report, measurement, verdicts, _gains(manifest, scratch))


def _gains(manifest: Manifest, scratch: Path) -> Gains | None:
    """What the bundle says of the student's training, as an artifact; None if it says nothing."""
    if manifest.gain is None:
        return None
    folder = scratch / manifest.provenance.artifacts.get("gains", "compare-unknown")
    folder.mkdir(exist_ok=True)
    write_facts(folder, manifest.gain)
    return Gains(folder)


def _answer(made: Bundle, target: TargetConfig, gates: tuple[GateConfig, ...]) -> Answer:
    manifest = made.manifest
    unmeasured = [target.name] if manifest.why is not None else []
    code = exit_code(manifest.verdicts, gates, required=[target.name] if target.required else [], unmeasured=unmeasured)
    verdicts = [verdict.model_dump() for verdict in manifest.verdicts]
    data: dict[str, Any] = {
        "bundle": str(made.root),
        "sha256": made.digest,
        "runtime": manifest.runtime,
        "precision": manifest.precision,
        "map": manifest.accuracy.map if manifest.accuracy else None,
        "latency_end_to_end_p50_ms": manifest.latency.end_to_end.p50 if manifest.latency else None,
        "lowest_ms": manifest.lowest_ms,
        "fallback": None if manifest.fallback is None else manifest.fallback.model_dump(mode="json"),
        "choice": None if manifest.choice is None else manifest.choice.figures(),
        "int8": None if manifest.int8 is None else manifest.int8.model_dump(mode="json"),
        "why": manifest.why,
        "gates": verdicts,
    }
    figures = [f"mAP {data['map']:.4f}" if data["map"] is not None else "mAP not measured"]
    figures.append(f"{manifest.latency.end_to_end.p50:.2f} ms end to end" if manifest.latency else f"not measured: {manifest.why}")
    lines = [f"{made.root}: {manifest.runtime} {manifest.precision}, {', '.join(figures)}"]
    lines += [choice_table(target.name, data["choice"])] if data["choice"] is not None else []
    lines += [str(one) for one in (manifest.fallback, manifest.int8) if one is not None]
    lines += [f"sha256 of {MANIFEST}: {made.digest}"]
    lines += [verdict_table(verdicts)] if verdicts else ["there is no gate that can be judged here, so nothing was judged"]
    code = code or (0 if verdicts else EXIT_INCOMPARABLE)
    return Answer({**data, "exit_code": code}, "\n".join(lines), code)
