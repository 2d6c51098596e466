"""`edgedistill gate`: judges measurements against limits, and a new bundle against a kept one, both run alternately on this machine."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy import plugins
from deploy.accuracy.judge import judge
from deploy.bundles.bundle import Bundle, sha256
from deploy.bundles.manifest import MANIFEST, Verdict
from deploy.bundles.trust import ANYONE, Trust
from deploy.comparison.metrics import Figures
from deploy.comparison.side import Side
from deploy.errors import EXIT_FAIL, EXIT_INCOMPARABLE, ArtifactError, ConfigError, EdgedistillError, Untrusted
from deploy.prediction.predictor import SessionPredictor
from pipeline.commands import build
from pipeline.commands.run import reused
from pipeline.config import PipelineConfig, load
from pipeline.outputs import copy_bundles
from pipeline.results.verdicts import annotate, text, write
from pipeline.store.files import put_back
from pipeline.terminal.answer import Answer, say
from stages.artifacts import DETECTIONS, Dataset, read_json
from stages.config import GateConfig, ValidationConfig
from stages.measurement.robust import Elsewhere, robust_side
from stages.measurement.splits import labeled_split
from stages.measurement.verdicts import Judge, exit_code

Rebuild = Callable[[Bundle, Path], Bundle]


@dataclass(frozen=True)
class GateResult:
    """The verdicts on a run's targets, or on a bundle.

    gates: the configured gates. bundles: the folders of the measured bundles, by target; digests: the sha256 of their manifests.
    """

    verdicts: tuple[Verdict, ...]
    exit_code: int
    gates: tuple[GateConfig, ...]
    bundles: Mapping[str, Path]
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there was something to judge and all of it passed."""
        return self.exit_code == 0


@dataclass(frozen=True)
class GateOptions:
    """How gates that compare with a reference are judged.

    reference: the folder of a bundle, or of one bundle per target. data: labeled images, only with a bundle; split: the one of
    them to judge on, None for the bundle's; max_doubtful: the largest share of them that may be left out or assumed, 0 to 1,
    None for 0.2. first: there is no reference yet and one is about to be kept, so these gates are not judged. trust: who must have
    signed the reference.
    """

    reference: Path | None = None
    data: Path | None = None
    first: bool = False
    max_doubtful: float | None = None
    split: str | None = None
    trust: Trust = ANYONE


def gate(args: argparse.Namespace) -> Answer:
    """Judge a configuration's targets, or a bundle."""
    reference, data = (None if given is None else Path(given) for given in (args.reference, args.data))
    first = args.save_reference is not None and reference is None
    trust = Trust.of(args.trusted, args.sha256)
    of_reference = replace(trust, sha256=None)
    options = GateOptions(reference, data, first=first, max_doubtful=args.max_doubtful, split=args.split, trust=of_reference)
    file = Path(args.config)
    if file.is_dir():
        if args.settings:
            raise ConfigError(f"--set {args.settings[0]}: {file} is a bundle, whose gates were judged when it was packaged; name a file")
        bundle = Bundle.load(file, trust)
        return _answer(args, gate_bundle(bundle, options), None, None, {bundle.manifest.target: bundle})
    if trust and (trust.sha256 is not None or reference is None):
        raise ConfigError(f"--trusted and --sha256 are for a bundle, and {file} is none; of a file, --trusted is for its --reference")
    config = load(file, args.settings)
    result = gate_run(config, Path(args.runs), options)
    return _answer(args, result, Path(args.runs) / config.name, file, result.bundles)


def gate_run(config: PipelineConfig, runs: Path, options: GateOptions) -> GateResult:
    """Judge the targets of a configuration. Nothing is trained or built; engines run only if a gate compares them.

    Raises:
        ConfigError: a reference that no gate compares with, or data, which the configuration names itself.
        NothingMeasured: the configuration has not run yet.
    """
    if options.data is not None:
        raise ConfigError(f"--data {options.data}: pipeline {config.name} names its own data; pass --data only with a bundle")
    if options.split is not None:
        raise ConfigError(f"--split {options.split}: pipeline {config.name} names its own split; pass --split only with a bundle")
    if options.max_doubtful is not None:
        given = f"--max-doubtful {options.max_doubtful:g}"
        raise ConfigError(f"{given}: pipeline {config.name} names its own (data.max_doubtful); pass --max-doubtful only with a bundle")
    result = reused(config, runs)
    verdicts: list[Verdict] = []
    _refuse_idle(options, config.gates)
    with ExitStack() as stack:
        references = _References(options, stack, partial(build.again, dataset=result.dataset))
        for target in result.targets:
            verdicts += target.verdicts.facts.verdicts
            wanted = [one for one in config.gates_of(target.config.name) if one.other == "reference"]
            if not wanted or options.first:
                continue
            own = replace(
                _side(Bundle.load(target.bundle.root), config.validation, None),
                detections=partial(read_json, target.report.root / DETECTIONS),
                name=target.config.name,
            )
            elsewhere = None if result.robust is None else result.robust[0]
            own = robust_side(own, own.name, elsewhere, result.robustness)
            verdicts += _judge(own, wanted, references, result.dataset, config.validation, elsewhere)
    code = result.exit_code(verdicts)
    bundles = {target.config.name: target.bundle.root for target in result.targets if target.report.facts.why is None}
    digests = {name: sha256(root / MANIFEST) for name, root in bundles.items()}
    return GateResult(tuple(verdicts), code if code or verdicts or options.first else EXIT_INCOMPARABLE, config.gates, bundles, digests)


def gate_bundle(given: Bundle, options: GateOptions) -> GateResult:
    """The verdicts stored in a bundle, and those of gates that compare with a reference. An unmeasured gate gives exit code 12.

    Raises:
        ConfigError: a reference that no gate compares with, or data without a reference.
    """
    verdicts = list(given.manifest.verdicts)
    _, gates, validation = build.plan(given, None)
    data = build.GivenData(None if options.data is None else str(options.data), options.max_doubtful)
    validation = build.judged_on(options.split, data, validation)
    _refuse_idle(options, gates)
    wanted = [one for one in gates if one.other == "reference"]
    if options.data is not None and options.reference is None:
        raise ConfigError(f"--data {options.data}: nothing is measured without --reference DIR")
    if wanted and not options.first:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(TemporaryDirectory()))
            dataset = None if options.data is None else build.data_for(given, data, validation, scratch)
            found = labeled_split(dataset, validation.split) if dataset is not None else None
            own = _side(given, validation, found)
            if found is not None:
                own = replace(own, data=(found.digest(), len(found.images)))
            references = _References(options, stack, partial(build.again, dataset=dataset))
            verdicts += _judge(own, wanted, references, dataset, validation)
    code = exit_code(verdicts, ())
    idle = any(verdict.verdict == "unmeasured" for verdict in verdicts) and code != EXIT_FAIL
    nothing = idle or not (verdicts or options.first)
    name = given.manifest.target
    return GateResult(tuple(verdicts), EXIT_INCOMPARABLE if nothing else code, gates, {name: given.root}, {name: given.digest})


def _refuse_idle(options: GateOptions, gates: Iterable[GateConfig]) -> None:
    """Refuse a reference that no gate compares with: it would judge nothing."""
    if options.reference is not None and not any(one.other == "reference" for one in gates):
        example = "{metric: map, max_drop: 0.01}"
        raise ConfigError(f"--reference {options.reference}: no gate compares with a reference; add one, such as {example}")


class _References:
    """The kept bundles in a folder, or a single one; engines from other machines are rebuilt here."""

    def __init__(self, options: GateOptions, stack: ExitStack, again: Rebuild) -> None:
        self._folder = options.reference
        self._trust = options.trust
        self._stack = stack
        self._again = again

    def of(self, target: str) -> Bundle | str:
        """The target's kept bundle, with an engine for this machine; or why there is none."""
        if self._folder is None:
            return "no reference was given; keep one with --save-reference DIR, then pass --reference DIR"
        root = self._folder if (self._folder / MANIFEST).exists() else self._folder / target
        if not (root / MANIFEST).exists():
            return f"no reference: {root / MANIFEST} does not exist; keep one with --save-reference {self._folder}"
        try:
            bundle = Bundle.load(root, self._trust)
            if bundle.manifest.target != target:
                return f"{root} is of target {bundle.manifest.target}, not of {target}"
            return self._here(bundle)
        except Untrusted:
            raise
        except (EdgedistillError, ValueError) as error:  # ValueError: an unknown runtime
            return str(error)

    def _here(self, bundle: Bundle) -> Bundle:
        manifest = bundle.manifest
        runtime = plugins.load("deploy.runtimes", manifest.runtime)
        why = "holds no engine" if manifest.engine is None else runtime.foreign(manifest.fingerprint)
        if why is None:
            return bundle
        say(f"the reference {bundle.root}: {why}; its engine is rebuilt here from its own graph", sys.stderr)
        made = self._again(bundle, Path(self._stack.enter_context(TemporaryDirectory())))
        return replace(made, manifest=made.manifest.model_copy(update={"data": manifest.data}))


def _judge(
    own: Side,
    gates: Sequence[GateConfig],
    references: _References,
    dataset: Dataset | None,
    validation: ValidationConfig,
    elsewhere: Elsewhere | None = None,
) -> Iterable[Verdict]:
    found = references.of(own.name)
    labeled = labeled_split(dataset, validation.split) if dataset is not None else None
    other = found if isinstance(found, str) else replace(_side(found, validation, labeled), name="the reference")
    if elsewhere is not None and not isinstance(other, str):
        findings = elsewhere.findings_by(other.open, other.contract, f"gate {own.name}")
        other = replace(other, statistic=findings.statistic)
    judge = Judge(own, {"reference": other}, dataset, validation)
    return [judge.verdict(one) for one in gates]


def _side(bundle: Bundle, validation: ValidationConfig, labeled: Any) -> Side:
    """A bundle as gates see it; it runs on the labeled images only when its detections are needed."""
    manifest = bundle.manifest
    size = None if manifest.engine is None else bundle.file(manifest.engine).stat().st_size
    figures = Figures(manifest.accuracy, manifest.latency, size, manifest.cost, manifest.graph.network, speedups=manifest.speedups)
    opened = partial(bundle.open, threads=validation.latency.threads)

    def detections() -> Sequence[Mapping[str, Any]]:
        with opened() as session:
            return judge(SessionPredictor(session, manifest.contract), labeled, f"gate {manifest.target}").detections

    return Side(manifest.target, figures, manifest.contract, opened, detections, manifest.why, manifest.data)


def _answer(
    args: argparse.Namespace, result: GateResult, folder: Path | None, file: Path | None, bundles: Mapping[str, Path | Bundle]
) -> Answer:
    """The result for the terminal and for CI systems, written to `folder` or to --out; keeps the reference if asked to."""
    verdicts, gates, code = result.verdicts, result.gates, result.exit_code
    data = {"gates": [verdict.model_dump(mode="json") for verdict in verdicts], "sha256": dict(result.digests), "exit_code": code}
    lines = [text(verdicts) if verdicts or not gates else "every gate compares with a reference, and there is none yet"]
    lines += [f"sha256 of {name}'s {MANIFEST}: {digest}" for name, digest in result.digests.items()]
    out = Path(args.out) if args.out is not None else folder
    if out is not None:
        lines += [str(path) for path in write(out, verdicts, code)]
    commands = annotate(verdicts, gates, file, settings=args.settings)
    if args.save_reference is not None:
        lines.append(_save(Path(args.save_reference).resolve(), bundles, code))
    return Answer(data, "\n".join(lines), code, commands)


def _save(folder: Path, bundles: Mapping[str, Path | Bundle], code: int) -> str:
    """Keep the bundles next to those of other targets, completely or not at all; keep nothing unless every gate passed.

    Raises:
        ConfigError: the folder holds something else.
        ArtifactError: there is no bundle to keep.
    """
    if code != 0:
        return f"{folder}: left as it is, because not every gate passed"
    if not bundles:
        raise ArtifactError(f"{folder}: nothing to keep, because no target was measured here")
    put_back(folder)
    kept = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    other = next((path for path in kept.values() if not (path / MANIFEST).is_file()), None)
    if other is not None or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"--save-reference {folder}: holds {other or folder}, which is not a bundle; choose a new or an empty folder")
    copy_bundles({**kept, **bundles}, folder)
    return f"kept as reference: {', '.join(str(folder / name) for name in bundles)}"
