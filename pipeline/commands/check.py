"""`edgedistill check`: checks the environment, the configuration and the data before anything runs."""

import argparse
import importlib.metadata
import importlib.util
import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from deploy import machine, plugins
from deploy.accuracy import corruptions
from deploy.contract import ModelContract
from deploy.errors import ArtifactError, ConfigError, DataError, EdgedistillError, plain
from deploy.machine import known_files, packages
from deploy.machine.files import read_text
from deploy.machine.packages import DISTRIBUTION
from pipeline.config import PipelineConfig, load, weight_files
from pipeline.config.document import read_document
from pipeline.store.checkout import PACKAGES
from pipeline.terminal.answer import Answer
from stages.config import DataConfig, RobustnessConfig
from stages.datasets import Source
from stages.datasets.cleaning import rules
from stages.datasets.cleaning.findings import Finding, examine, of_note
from stages.datasets.unlabeled.footage import videos_in
from stages.datasets.unlabeled.pool import UNLABELLED, folders, listed, readable, refusal
from stages.measurement.crowded import crowded_source
from stages.notes import Notes
from stages.prepare import find


def check(args: argparse.Namespace) -> Answer:
    """Check everything that can be known in advance; without a pipeline.yaml, only the environment."""
    clashes = name_clashes()
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": machine.identity(),
        "packages": packages.dependencies(),
        "clashes": clashes,
        "runtimes": runtimes(),
        "config": None,
        "networks": None,
        "weights": [],
        "data": [],
    }
    found["opencv"] = opencvs()
    lines = _environment_lines(found)
    code = ConfigError.exit_code if clashes else 0
    if Path(args.config).exists() or args.config != "pipeline.yaml" or args.settings:
        config = load(Path(args.config), args.settings)
        lines.append(f"{args.config}: valid")
        problem = _network_problem(config)
        if problem is not None:
            lines.append(f"error: {problem}")
            code = code or problem.exit_code
        files = (Path(label) for label, _ in read_document(Path(args.config)).files)
        missing = list(weight_files.problems(config, "\n".join(map(read_text, files))))
        lines += [f"error: {plain(line)}" for line in missing]
        code = code or (ArtifactError.exit_code if missing else 0)
        found["weights"] = missing
        findings = data_findings(config)
        found["config"], found["networks"] = str(args.config), None if problem is None else str(problem)
        found["data"] = [asdict(finding) for finding in findings]
        lines += map(plain, _data_lines(findings))
        code = code or (DataError.exit_code if any(finding.level == "error" for finding in findings) else 0)
    return Answer({**found, "exit_code": code}, "\n".join(lines), code)


def name_clashes() -> dict[str, list[str]]:
    """Installed distributions other than ours that own one of our import names; they silently overwrite our files."""
    owners = importlib.metadata.packages_distributions()
    found = {name: sorted({owner for owner in owners.get(name, []) if owner.lower() != DISTRIBUTION}) for name in PACKAGES}
    return {name: others for name, others in found.items() if others}


def opencvs() -> list[str]:
    """The installed distributions of OpenCV; of several, each overwrote files of the others."""
    return sorted({owner for owner in importlib.metadata.packages_distributions().get("cv2", ()) if owner})


def runtimes() -> dict[str, str | None]:
    """Why engines of each runtime cannot run here; null if they can."""
    return {name: plugins.load("deploy.runtimes", name).why_not() for name in plugins.names("deploy.runtimes")}


def _network_problem(config: PipelineConfig) -> EdgedistillError | None:
    """Why teacher, student or losses cannot be built as configured; None if they can, or if torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    try:
        _refuse_networks(config)
    except (ConfigError, ArtifactError) as error:
        return error
    return None


def before_trainings(config: PipelineConfig) -> Mapping[str, Callable[[], None]]:
    """What a store calls before each training, see Store.before: networks that cannot be distilled are refused before hours of work."""
    return dict.fromkeys(("train_teacher", "time_steps", "train_baseline", "distill", "finetune_int8"), partial(_refuse_networks, config))


def _refuse_networks(config: PipelineConfig) -> None:
    """Build teacher, student and losses as configured, without pretrained weights.

    Raises:
        ConfigError: options or networks that do not go together.
        ArtifactError: a detector cannot be built.
    """
    # Imported here: a run that reuses all its trainings must not import torch.
    from stages.int8.sites import refuse_unroundable
    from stages.measurement.torch_accuracy import refuse_undecodable
    from stages.training.checkpoint import build_detector, check_size
    from stages.training.distillation import build_losses
    from stages.training.unlabeled.plan import refuse_unlearnable
    from stages.training.unlabeled.subset import refuse_unknown

    anything = ModelContract(preprocessing=config.data.preprocessing, classes=("one", "other"), category_ids=(1, 2))
    choices = config.teacher.detector, config.student.detector
    teacher, student = (build_detector(choice, len(anything.classes), pretrained=False) for choice in choices)
    for detector, choice in zip((teacher, student), choices, strict=True):
        check_size(detector, choice, anything)
    if config.export.decode == "host":
        refuse_undecodable(student, anything, config.export)
    losses = build_losses(config.distill, student, teacher, config.seed)
    for index, target in enumerate(config.targets):
        if target.int8 is not None and target.finetunes:
            refuse_unroundable(student)
            own_losses = config.distill.model_copy(update={"losses": target.int8.own_losses})
            build_losses(own_losses, student, student, config.seed, key=f"targets.{index}.int8.losses")
    if (own := config.distill.from_unlabelled) is not None:
        refuse_unlearnable(student, own, losses, teacher)
    if (taught := config.distill.taught) is not None:
        refuse_unknown(config.teacher, taught)


def data_findings(config: PipelineConfig, runs: Path = Path("runs")) -> list[Finding]:
    """What is wrong or odd with the data, read as `prepare` reads it.

    Args:
        runs: where runs are kept; if there are any, images that have not changed are not decoded again, neither here nor in `prepare`.
    """
    with known_files.kept_in(runs / ".store" / ".files.json"), tempfile.TemporaryDirectory(prefix="edgedistill-") as folder:
        try:
            sources = find(Path(folder), config.data)
            strict, most = config.data.strict, config.data.max_doubtful
            found = examine(sources, config.data.preprocessing, strict=strict, max_doubtful=most, learns=config.learns_from_labels)
            unmet = [] if any(one.level == "error" for one in found) else [*_unmet(config, sources), *_crowded(config, sources)]
            return [*found, *_robustness_findings(config.robustness, sources), *unmet, *_unlabelled_findings(config.data)]
        except DataError as error:
            return [Finding("error", "", str(error))]


def _unmet(config: PipelineConfig, sources: Mapping[str, Source]) -> list[Finding]:
    """What targets and gates ask for that sound data does not have."""
    classes = [*rules.categories(next(iter(sources.values())).coco).values()]
    return [Finding("error", "", line) for line in config.unmet(sources, classes)]


def _crowded(config: PipelineConfig, sources: Mapping[str, Source]) -> list[Finding]:
    """Splits with images in which more objects are than the graph will find."""
    most = config.export.max_detections
    return [of_note(name, note, strict=False) for name, source in sources.items() for note in crowded_source(name, source.coco, most)]


def _robustness_findings(asked: RobustnessConfig, there: Iterable[str]) -> list[Finding]:
    """What the section robustness asks for and is not there, as far as that is known before the data is prepared."""
    missing = None if asked.corruptions is None else corruptions.why_not()
    lines = [*asked.lacking(there), *([f"robustness.corruptions: {missing}"] if missing else [])]
    return [Finding("error", "", line) for line in lines]


def _unlabelled_findings(config: DataConfig) -> list[Finding]:
    """How many images without labels there are, and which of them cannot be read."""
    if not config.unlabelled_folders:
        return []
    try:
        roots = folders(config.unlabelled_folders)
        videos, paths = len(videos_in(roots)), listed(roots)
    except (ConfigError, DataError) as error:
        return [Finding("error", UNLABELLED, str(error))]
    notes = Notes()
    usable = readable(paths, config.preprocessing, notes)
    counts = [f"{count} {thing}{'' if count == 1 else 's'}" for count, thing in ((len(paths), "image"), (videos, "video")) if count]
    lines = [Finding("info", UNLABELLED, f"{' and '.join(counts)} without labels")]
    found = [note.model_copy(update={"total": len(paths)}) for note in notes]
    lines += [of_note(UNLABELLED, note, strict=config.strict) for note in found]
    refused = refusal(found, len(paths), strict=False, max_doubtful=config.max_doubtful)
    if not videos and (refused or not usable):  # how many frames there are is not known before they are read
        lines.append(Finding("error", "", refused or f"{UNLABELLED}: no usable image"))
    return lines


def _environment_lines(found: Mapping[str, Any]) -> list[str]:
    here = found["machine"]
    installed = [f"{name} {version}" for name, version in found["packages"].items() if version]
    missing = [name for name, version in found["packages"].items() if not version]
    return [
        f"python {found['python']} on {here['platform']}, {here['cpu']}, {here['cores']} cores, GPU: {here.get('gpu', 'none')}",
        f"installed: {', '.join(installed)}",
        f"not installed: {', '.join(missing) or 'none'}",
        *(f"runtime {name}: {why or 'ready'}" for name, why in found["runtimes"].items()),
        *([_opencv_line(found["opencv"])] if len(found["opencv"]) > 1 else []),
        *(_clash_line(name, " ".join(owners)) for name, owners in found["clashes"].items()),
    ]


def _opencv_line(several: list[str]) -> str:
    kept = next((name for name in several if "headless" in name), several[0])
    mend = f"pip uninstall {' '.join(several)} && pip install {kept}"
    return f"warning: {' and '.join(several)} are all OpenCV and overwrite one another's files; keep one: {mend}"


def _clash_line(name: str, others: str) -> str:
    mend = f"pip uninstall {others} && pip install --force-reinstall --no-deps {DISTRIBUTION}"
    return f"error: {others} installs a package called {name}, a name that edgedistill uses; run: {mend}"


def _data_lines(findings: list[Finding]) -> list[str]:
    lines = [f"{finding.level}: {finding.split + ': ' if finding.split else ''}{finding.message}" for finding in findings]
    return lines or ["data: no problems found"]
