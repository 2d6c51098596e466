"""What the engines of a run found on other splits and on corrupted images, as comparisons need it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deploy.accuracy import corruptions
from deploy.accuracy.conditions import QUICK_IMAGES, Condition, sweep
from deploy.accuracy.judge import LabeledSplit
from deploy.comparison.robustness import Findings, ImageGroup
from deploy.comparison.side import Side
from deploy.contract import ModelContract
from deploy.errors import ArtifactError, DataError, RuntimeUnavailable
from deploy.plugins import suggest
from deploy.prediction import image_files
from deploy.prediction.detections import to_coco
from deploy.prediction.predictor import SessionPredictor
from deploy.progress import Steps
from deploy.runtimes import Session
from stages.artifacts import DETECTIONS, Dataset, Report, Robustness, Stress, read_json
from stages.config import RobustnessConfig
from stages.measurement.groups import groups_of, refuse_strange
from stages.measurement.splits import labeled_split, some

Detection = Mapping[str, Any]
AT = "@"
"""Between an engine's name and a split's in the names of reports on other splits."""


@dataclass(frozen=True)
class Elsewhere:
    """Reports by the engine's name and, for other splits, "engine@split"; the sweep if there was one."""

    config: RobustnessConfig
    split: str
    dataset: Dataset
    reports: Mapping[str, Report]
    sweep: Stress | None = None

    def findings(self, name: str) -> Findings:
        """What an engine of the run found."""

        def found(condition: Condition) -> Sequence[Detection]:
            if condition.corruption is not None and self.sweep is not None:
                return self.sweep.detections(name, condition)
            return self._read(self.reports[name if condition.split == self.split else f"{name}{AT}{condition.split}"])

        return self._findings(found)

    def findings_by(self, opened: Callable[[], Session], contract: ModelContract, title: str) -> Findings:
        """What another engine finds, which runs when it is asked for a condition."""

        def found(condition: Condition) -> Sequence[Detection]:
            images = self._images(condition)
            label = f"{title}, {condition.corruption or condition.split}"
            with opened() as session, Steps(label, len(images.images)) as steps:
                return detect_under(condition, {title: SessionPredictor(session, contract)}, images, steps)[title]

        return self._findings(found)

    def _findings(self, found: Callable[[Condition], Sequence[Detection]]) -> Findings:
        mode = self.config.corruptions
        truths: dict[tuple[str, bool], Mapping[str, Any]] = {}

        def truth(condition: Condition) -> Mapping[str, Any]:
            key = condition.split, condition.corruption is not None
            if key not in truths:
                truths[key] = self._images(condition).truth
            return truths[key]

        def plain() -> Sequence[Detection]:
            kept = {image["id"] for image in swept_images(self.config, self.split, self.dataset).truth["images"]}
            return [one for one in found(Condition(self.split)) if one["image_id"] in kept]

        return Findings(self.split, self.counting(), () if mode is None else sweep(self.split, mode), truth, found, plain)

    def _images(self, condition: Condition) -> LabeledSplit:
        if condition.corruption is not None:
            return swept_images(self.config, self.split, self.dataset)
        return labeled_split(self.dataset, condition.split)

    def counting(self) -> list[ImageGroup]:
        """The groups that can be the worst one: those with enough images."""
        return [one for one in groups_of(self.config, self.split, self.dataset) if len(one.images) >= self.config.min_images]

    @staticmethod
    def _read(report: Report) -> list[Detection]:
        found: list[Detection] = read_json(report.file(DETECTIONS))
        return found


def swept_images(config: RobustnessConfig, split: str, dataset: Dataset) -> LabeledSplit:
    """The images that are corrupted: all, or evenly spread ones."""
    every = labeled_split(dataset, split)
    return some(every, QUICK_IMAGES) if config.corruptions == "quick" else every


def detect_under(
    condition: Condition, predictors: Mapping[str, SessionPredictor], images: LabeledSplit, steps: Steps
) -> dict[str, list[Detection]]:
    """What each engine finds in the images under one condition; each image is corrupted once for all.

    Raises:
        ArtifactError: an engine's answer is invalid; the message names engine, image and condition.
    """
    found: dict[str, list[Detection]] = {name: [] for name in predictors}
    preprocessing = next(iter(predictors.values())).contract.preprocessing
    for row, path in zip(images.truth["images"], images.images, strict=True):
        pixels, where = image_files.load_image(path, preprocessing), path.name
        if condition.corruption is not None:
            seed = corruptions.seed_of(row["id"], condition.corruption, condition.severity)
            pixels = corruptions.corrupt(pixels, condition.corruption, condition.severity, seed)
            where = f"{path.name}, {condition.corruption} at severity {condition.severity}"
        for name, predictor in predictors.items():
            try:
                found[name] += to_coco(predictor.detect(pixels), row["id"], predictor.contract)
            except ArtifactError as error:
                raise ArtifactError(f"{name}, {where}: {error}") from error
        steps.advance("" if condition.corruption is None else f"{condition.corruption} {condition.severity}")
    return found


def robust_side(side: Side, name: str, elsewhere: Elsewhere | None, figures: Robustness | None) -> Side:
    """A side with an engine's figures of robustness, if they were measured."""
    if elsewhere is None or figures is None or name not in figures.facts.engines:
        return side
    values = figures.facts.engines[name].values()
    return replace(side, figures=replace(side.figures, robust=values), statistic=elsewhere.findings(name).statistic)


def refuse(config: RobustnessConfig, split: str, dataset: Dataset) -> None:
    """Refuse, before anything is trained, what the section asks for and the data does not have.

    Raises:
        DataError: no such split, a split without images, a grouping that cannot be made, no group with enough images, images too small
            to be corrupted.
        RuntimeUnavailable: corruptions without the extra.
    """
    there = dataset.facts.splits
    for name in config.splits:
        if name not in there:
            raise DataError(f"robustness.splits: no split '{name}'{suggest(name, there)}: the data has {', '.join(sorted(there))}")
        labeled_split(dataset, name)
    if config.corruptions is not None:
        if (missing := corruptions.why_not()) is not None:
            raise RuntimeUnavailable(f"robustness.corruptions: {missing}")
        corruptions.refuse_small(swept_images(config, split, dataset))
    groups = groups_of(config, split, dataset)
    refuse_strange(config, split, dataset)
    if groups and not any(len(one.images) >= config.min_images for one in groups):
        most = max(groups, key=lambda one: len(one.images))
        raise DataError(
            f"robustness.groups: the largest group, {most.grouping}: {most.name}, has {len(most.images)} images of split {split}, "
            f"and robustness.min_images is {config.min_images}; lower it, or divide the images into fewer groups"
        )
