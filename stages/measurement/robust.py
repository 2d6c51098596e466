"""What the engines of a run found on other splits and on corrupted images, as comparisons need it."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from deploy import machine
from deploy.accuracy import corruptions
from deploy.accuracy.conditions import Condition, num_swept, sweep
from deploy.accuracy.judge import LabeledSplit
from deploy.comparison.robustness import Findings, ImageGroup
from deploy.comparison.side import Side
from deploy.contract import ModelContract
from deploy.errors import ArtifactError, DataError, RuntimeUnavailable
from deploy.prediction import preprocess
from deploy.prediction.detections import Detections, to_coco
from deploy.prediction.predictor import SessionPredictor
from deploy.progress import Steps
from deploy.runtimes import Session
from stages.artifacts import DETECTIONS, Dataset, Report, Robustness, Stress, read_json
from stages.config import RobustnessConfig
from stages.measurement.corrupted import Fitted, Views
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
                (every,) = detect_under([condition], {title: SessionPredictor(session, contract)}, images, steps)
                return every[title]

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
    return some(every, num_swept(config.corruptions or "full", len(every.images)))


def detect_under(
    conditions: Sequence[Condition], predictors: Mapping[str, SessionPredictor], images: LabeledSplit, steps: Steps
) -> Generator[dict[str, list[Detection]], None, None]:
    """What each engine finds in the images, condition by condition; each image is corrupted once for all.

    Raises:
        ArtifactError: an engine's answer is invalid; the message names engine, image and condition.
    """
    preprocessing = next(iter(predictors.values())).contract.preprocessing
    with _side_by_side(len(predictors)) as mapped, closing(Views(images, preprocessing).under(conditions)) as views:
        for condition in conditions:
            found: dict[str, list[Detection]] = {name: [] for name in predictors}
            for row, view in zip(images.truth["images"], islice(views, len(images.images)), strict=True):
                answer = partial(_answer, predictors, view, f"{row['file_name']}{_under(condition)}")
                for name, answered in zip(predictors, mapped(answer, predictors), strict=True):
                    found[name] += to_coco(answered, row["id"], predictors[name].contract)
                steps.advance("" if condition.corruption is None else f"{condition.corruption} {condition.severity}")
            yield found


@contextmanager
def _side_by_side(engines: int) -> Iterator[Callable[..., Iterable[Detections]]]:
    """`map`, with a thread for each engine if there are cores for them."""
    threads = min(engines, machine.num_cores())
    if threads < 2:
        yield map
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool.map


def _answer(predictors: Mapping[str, SessionPredictor], view: Fitted, where: str, name: str) -> Detections:
    predictor = predictors[name]
    try:
        return predictor.answer(preprocess.apply(view.pixels, predictor.contract.preprocessing)[0], view.placement)
    except ArtifactError as error:
        raise ArtifactError(f"{name}, {where}: {error}") from error


def _under(condition: Condition) -> str:
    return "" if condition.corruption is None else f", {condition.corruption} at severity {condition.severity}"


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
    for line in config.lacking(dataset.facts.splits):
        raise DataError(line)
    for name in config.splits:
        labeled_split(dataset, name)
    if config.corruptions is not None:
        if (missing := corruptions.why_not()) is not None:
            raise RuntimeUnavailable(f"robustness.corruptions: {missing}")
        corruptions.refuse_small(swept_images(config, split, dataset))
    groups = groups_of(config, split, dataset)
    refuse_strange(config, split, dataset)
    if groups and not any(len(one.images) >= config.min_images for one in groups):
        most = max(groups, key=lambda one: len(one.images))
        count = len(most.images)
        raise DataError(
            f"robustness.groups: the largest group, {most.grouping}: {most.name}, has {count} image{'s' if count != 1 else ''} "
            f"of split {split}, and robustness.min_images is {config.min_images}; lower it, or divide the images into fewer groups"
        )
