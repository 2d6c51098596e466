"""The report's section on robustness: other splits, groups, heat maps of corruptions, the images on which the student is worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.prediction.detections import class_names
from pipeline.report.boxes import match_boxes, objects_of, truth_view
from pipeline.report.pictures import Photo, photo_of, readable
from pipeline.report.words import UNDEFINED, fraction, points
from pipeline.results.learning import listed
from pipeline.results.robustness import TITLES, columns, ordered
from pipeline.run_result import RunResult
from stages.artifacts import WORST, read_json
from stages.facts import WorstImage
from stages.measurement.splits import labeled_split

STRONGEST = 60
"""Share of the color in a cell, in %, at the end of its scale: figures stay readable on it."""

MOST_DIFFERENCE = 0.2
"""A difference of mAP with the full color."""


@dataclass(frozen=True)
class HeatCell:
    """A figure, the name of its color and how much of it, 0 to STRONGEST %."""

    text: str
    color: str
    share: int


@dataclass(frozen=True)
class HeatMap:
    """A table whose cells are colored; the rows are corruptions."""

    title: str
    columns: tuple[str | int, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


@dataclass(frozen=True)
class WorstPhoto:
    """An image on which the student's mAP is low, with the split and each network's mAP on it."""

    photo: Photo
    about: str


def robustness(run: RunResult, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the template shows; None if the run was not asked for it, or nothing could be measured."""
    found = summary["robustness"]
    if found is None or run.robustness is None or not found["engines"]:
        return None
    names = ordered(found["engines"])
    engines = {TITLES.get(name, name): found["engines"][name] for name in names}
    first = next(iter(engines.values()))
    return {
        "where": _where(first, found["split"]),
        "metrics": columns(found),
        "engines": engines,
        "leads": found["leads"],
        "splits": first["splits"],
        "groups": [(title, list(groups)) for title, groups in first["groups"].items()],
        "sweep": first["sweep"],
        "heat": heat_maps({name: one["sweep"] for name, one in engines.items() if one["sweep"] is not None}),
        "worst": _photos(run),
    }


def _where(first: Mapping[str, Any], split: str) -> str:
    """What was judged, from an engine's figures."""
    groups = f"in groups of the images of split {split}"
    every = {"splits": "on other splits", "groups": groups, "sweep": f"on corrupted images of split {split}"}
    return listed([words for name, words in every.items() if first[name]])


def heat_maps(sweeps: Mapping[str, Mapping[str, Any]]) -> list[HeatMap]:
    """One map of all engines if there is one severity, otherwise one per engine; then the student minus the baseline."""
    if not sweeps:
        return []
    first = next(iter(sweeps.values()))["maps"]
    severities = list(next(iter(first.values())))
    student, baseline = sweeps.get("student"), sweeps.get("baseline")
    maps = []
    if len(severities) == 1:
        rows = {name: [sweep["maps"][name][severities[0]] for sweep in sweeps.values()] for name in first}
        maps.append(_map("mAP at severity 3", list(sweeps), rows))
    else:
        for title, sweep in sweeps.items():
            rows = {name: [*row.values(), _mean([*row.values()])] for name, row in sweep["maps"].items()}
            maps.append(_map(f"mAP of {title}", [*severities, "mean"], rows))
    if student is not None and baseline is not None:
        differences = {name: _minus(student["maps"][name], baseline["maps"][name]) for name in first}
        titles = [f"severity {severities[0]}"] if len(severities) == 1 else [*severities, "mean"]
        maps.append(_map("Student minus baseline, in points", titles, differences, difference=True))
    return maps


def _minus(own: Mapping[str, float | None], other: Mapping[str, float | None]) -> list[float | None]:
    """The differences at each severity and, of several, their mean."""
    found = [None if one is None or two is None else one - two for one, two in zip(own.values(), other.values(), strict=True)]
    return found if len(found) == 1 else [*found, _mean(found)]


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if len(defined) == len(values) else None


def _map(title: str, titles: Sequence[str | int], rows: Mapping[str, Sequence[float | None]], *, difference: bool = False) -> HeatMap:
    cell = _difference if difference else _level
    return HeatMap(title, tuple(titles), tuple((name.replace("_", " "), tuple(map(cell, row))) for name, row in rows.items()))


def _level(value: float | None) -> HeatCell:
    return HeatCell(fraction(value), "infer", round(STRONGEST * min(max(value or 0.0, 0.0), 1.0)))


def _difference(value: float | None) -> HeatCell:
    share = min(abs(value or 0.0) / MOST_DIFFERENCE, 1.0)
    return HeatCell(points(value), "pass" if (value or 0.0) >= 0 else "fail", round(STRONGEST * share))


def _photos(run: RunResult) -> list[WorstPhoto]:
    """The worst images that can still be read, with the boxes of ground truth and networks."""
    if run.robustness is None:
        return []
    worst = run.robustness.facts.worst_images
    results = read_json(run.robustness.file(WORST)) if worst else {}
    return [one for image in worst for one in _photo(run, image, results.get(image.split, {}))]


def _photo(run: RunResult, image: WorstImage, results: Mapping[str, Any]) -> list[WorstPhoto]:
    labeled = labeled_split(run.dataset, image.split)
    names = class_names(labeled.truth)
    truth = objects_of(labeled.truth["annotations"], [image.image_id])[image.image_id]
    shown = []
    for row, pixels in readable(labeled, [image.image_id], run.dataset.facts.contract.preprocessing):
        found = {name: objects_of(rows, [row["id"]])[row["id"]] for name, rows in _only(results, image.image_id).items()}
        views = [truth_view(truth, names), *(match_boxes(name, truth, objects, names) for name, objects in found.items())]
        about = ", ".join(f"{name} {UNDEFINED if value is None else f'{value:.3f}'}" for name, value in image.maps.items())
        shown.append(WorstPhoto(photo_of(image.file_name, pixels, views), f"split {image.split}; mAP on this image: {about}"))
    return shown


def _only(results: Mapping[str, Sequence[Mapping[str, Any]]], image: int) -> dict[str, list[Mapping[str, Any]]]:
    return {name: [one for one in rows if one["image_id"] == image] for name, rows in results.items()}
