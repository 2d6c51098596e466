"""The text of a first pipeline.yaml: every choice with a comment that gives its reason."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.init.folder import LabeledFolder
from pipeline.init.networks import Network, download
from pipeline.init.own_figure import placeholder
from pipeline.init.plan import EQUAL_COST, VAL_SHARE, FirstPlan
from pipeline.init.sample import Decoding
from pipeline.init.sizes import MOST_SMALL, SMALL_PX
from pipeline.init.targets import gates, targets
from stages.config import ExportConfig
from stages.config.data import MAX_DOUBTFUL
from stages.datasets.cleaning.overlaps import overlaps

FEW_IMAGES = 200
"""With fewer images than this, views are cropped too."""

IOU_THRESHOLD = ExportConfig().iou_threshold

_COLORS = {"red", "green", "blue", "yellow", "orange", "white", "black", "purple", "pink", "brown", "amber", "ripe", "unripe"}
_SIDED = {"left", "right", "text", "letter", "digit", "number", "plate", "arrow", "sign", "character", "turn", "clockwise"}


@dataclass(frozen=True)
class Given:
    """What the file repeats from the command line: the run's name, the limit of latency in ms, and data.max_doubtful."""

    name: str
    latency: float | None = None
    max_doubtful: float = MAX_DOUBTFUL


def write(folder: LabeledFolder, plan: FirstPlan, decoding: Decoding, given: Given) -> str:
    """The file's contents."""
    name, latency = given.name, given.latency
    parts = (
        _head(plan, name),
        _data(folder, plan, decoding, given.max_doubtful),
        _networks(folder, plan),
        _distill(plan),
        _baseline(plan),
        _export(folder),
        _targets(plan, latency),
    )
    return "\n".join(line for part in parts for line in part)


def name_of(folder_name: str) -> str:
    """A name for the run: the folder's, in the letters that names may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder_name).strip("-._")[:100] or "detector"


def can_flip(classes: Mapping[str, int]) -> bool:
    """Whether an object mirrored left to right is still of its class, as far as the names tell."""
    words = {word for name in classes for word in _words(name)}
    return not (words & _SIDED or sum(len(name.strip()) == 1 for name in classes) > len(classes) / 2)


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z]+", name.lower())


def _head(plan: FirstPlan, name: str) -> Iterator[str]:
    yield "# Written by edgedistill init from the images and this machine. It is yours to change."
    parts = ", ".join(f"{part} {_minutes(seconds)}" for part, seconds in plan.seconds.items())
    how = "speed measured with a few steps" if plan.measured else "speed guessed: torch is not installed"
    yield f"# Estimate: {plan.minutes:.0f} minutes on this machine ({parts}; {how})."
    if plan.warning is not None:
        yield f"# {plan.warning[0].upper()}{plan.warning[1:]}."
    yield f"name: {_text(name)}  # results go to runs/{name}"
    yield "seed: 0"
    yield f"device: {plan.device}"


def _data(folder: LabeledFolder, plan: FirstPlan, decoding: Decoding, max_doubtful: float) -> Iterator[str]:
    counted = ", ".join(f"{count} {split}" for split, count in folder.num_images.items())
    classes = "1 class" if len(folder.classes) == 1 else f"{len(folder.classes)} classes"
    yield f"\n# Images: {counted}. {len(folder.objects)} training objects in {classes}."
    for note in decoding.notes:
        yield f"# {_one_line(str(note))}"
    yield "data:"
    yield f"  dataset: {folder.dataset}"
    for option, value in folder.options.items():
        here = "  # relative to the folder in which edgedistill runs, if it is not absolute" if option == "root" else ""
        yield f"  {option}: {_text(value)}{here}"
    yield from _splits(folder)
    if max_doubtful != MAX_DOUBTFUL:
        yield "  # The share of a split that may be left out or assumed, as asked for."
        yield f"  max_doubtful: {max_doubtful:g}"
    yield from _size(plan, decoding)


def _splits(folder: LabeledFolder) -> Iterator[str]:
    if "val" in folder.sources:
        return
    yield "  # There is no val split: this share of the training images is set aside, and never trained on."
    yield f"  val_share: {VAL_SHARE}"


def _size(plan: FirstPlan, decoding: Decoding) -> Iterator[str]:
    size = plan.size
    yield f"  # {size.small:.1%} of the objects are below {SMALL_PX:g} px here, where few are found; the median is {size.median:.0f} px."
    if size.small > MOST_SMALL:
        yield "  # That is much: it is what the minutes and the images' own size allow. Larger takes longer, in proportion to the area."
    yield from (f"  # {reason[0].upper()}{reason[1:]}" for reason in decoding.reasons)
    yield f"  preprocessing: {_flow({'height': size.height, 'width': size.width, **decoding.fields})}"


def _networks(folder: LabeledFolder, plan: FirstPlan) -> Iterator[str]:
    yield "\n# The largest pair that can learn enough in the minutes; the student is what is shipped."
    yield "teacher:"
    teacher = plan.pair.teacher
    if teacher.weights is None and teacher.backbone_weights is None:
        yield "  # From random weights. ImageNet's help most with few images; to use them, download them and run init again:"
        yield f"  #   {download(plan.pair)}"
    yield from _levels(plan)
    yield f"  detector: {_flow(teacher.options(plan.levels))}"
    passes = plan.epochs * plan.train_images
    yield f"  # {plan.num_steps} steps, {passes} views of {plan.train_images} images: what fits {plan.minutes:.0f} minutes."
    yield "  train:"
    yield from _train(teacher, folder, plan)
    yield "student:"
    yield f"  detector: {_flow(plan.pair.student.options(plan.levels))}"
    yield "  train:  # the same for the baseline, which is the student without its teacher"
    yield from _train(plan.pair.student, folder, plan)


def _levels(plan: FirstPlan) -> Iterator[str]:
    shares = ", ".join(f"{stride}: {share:.0%}" for stride, share in zip(plan.levels.strides, plan.levels.shares, strict=True))
    yield f"  # Objects per level by stride at range_scale {plan.levels.range_scale:g}: {shares}."


def _train(network: Network, folder: LabeledFolder, plan: FirstPlan) -> Iterator[str]:
    rate = network.learning_rate * (plan.batch / 8) ** 0.5
    yield f"    epochs: {plan.epochs}"
    yield f"    batch_size: {plan.batch}"
    yield f"    learning_rate: {rate:.2g}"
    yield f"    warmup_steps: {max(1, min(100, plan.num_steps // 10))}"
    yield f"    ema: {_ema(plan.num_steps)}  # averages over about a twentieth of the steps"
    yield "    augment:"
    yield from _augment(folder, plan)


def _ema(num_steps: int) -> float:
    return round(min(0.999, max(0.9, 1 - 20 / max(num_steps, 1))), 3)


def _augment(folder: LabeledFolder, plan: FirstPlan) -> Iterator[str]:
    if can_flip(folder.classes):
        yield "      - {name: flip}"
    else:
        yield "      # no flip: mirrored, these classes would be others"
    yield "      - {name: scale, min: 0.75, max: 1.3}"
    if plan.train_images < FEW_IMAGES:
        yield "      - {name: crop, p: 0.3}  # few images: more views of each"
    if not {word for name in folder.classes for word in _words(name)} & _COLORS:
        yield "      - {name: color, hue: 0.02}"
    else:
        yield "      # no color: classes are named after colors"


def _distill(plan: FirstPlan) -> Iterator[str]:
    strides = list(plan.levels.carrying)
    yield "\ndistill:"
    yield "  # At the strides that carry objects: a teacher's features elsewhere have little to teach."
    yield f"  warmup_steps: {max(1, min(150, plan.num_steps // 10))}"
    if plan.longest_minutes is None:
        yield "  # In a short training losses of full weight hold a student back; auto keeps them at this share of its gradient."
        yield "  share: 0.3"
    weight = "auto" if plan.longest_minutes is None else 1.0
    yield "  losses:"
    for loss in ("attention", "non_local"):
        yield f"    - {{name: {loss}, weight: {weight}, strides: {strides}, statistics: batch}}"


def _baseline(plan: FirstPlan) -> Iterator[str]:
    most = plan.longest_minutes
    if most is None:
        yield "\n# What distillation gains is measured against the student's network trained alone for as many steps. A second baseline,"
        yield "# trained for as long as the student, was left out for longer trainings: the minutes are few. equal: both adds it."
    else:
        yield "\n# What distillation gains is measured twice: against the student's network trained without the teacher for as many steps,"
        yield f"# and for as long, which takes about {_minutes(plan.seconds[EQUAL_COST])} minutes; equal: steps leaves that one out."
    yield "# No gate holds the gains: a teacher trained on the student's own images often has little to add. To have one:"
    yield "#   - {name: no-worse, metric: map, max_drop: 0.0, versus: baseline, on_noise: pass}"
    yield f"baseline: {_flow({'equal': 'steps'} if most is None else {'equal': 'both', 'max_minutes': most})}"


def _export(folder: LabeledFolder) -> Iterator[str]:
    most = most_objects(folder)
    shape: dict[str, Any] = {"candidates": max(100, min(2000, 2 * most)), "max_detections": max(50, min(1000, -(-3 * most // 2)))}
    yield f"\n# Up to {most} objects are labeled in one image."
    if len(folder.classes) > 1:
        over = f"overlap by more than {IOU_THRESHOLD:g}"
        if overlaps(folder.sources["train"].coco, IOU_THRESHOLD):
            yield f"# Some training objects of different classes {over}, so one does not suppress the other."
            shape["nms"] = "per_class"
        else:
            yield f"# No training objects of different classes {over}: of such detections only the best is kept."
            shape["nms"] = "agnostic"
    yield f"export: {_flow(shape)}"


def most_objects(folder: LabeledFolder) -> int:
    """The largest number of objects in a training image."""
    counts: dict[Any, int] = {}
    for row in folder.sources["train"].coco["annotations"]:
        counts[row.get("image_id")] = counts.get(row.get("image_id"), 0) + 1
    return max(counts.values(), default=0)


def _targets(plan: FirstPlan, latency: float | None) -> Iterator[str]:
    found = targets()
    yield "\n# What this machine can measure."
    yield "targets:"
    yield from (f"  - {_flow(target)}" for target in found)
    yield "\ngates:"
    for reason, gate in gates([target["name"] for target in found], plan.latency_ms, latency):
        yield f"  # {reason}"
        yield f"  - {_flow(gate)}"
    yield placeholder()


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _flow(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000).strip()


def _text(value: Any) -> str:
    """A value in one line of YAML: plain text if it means itself, otherwise quoted."""
    if not isinstance(value, str):
        return json.dumps(value)
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*", value) and yaml.safe_load(value) == value
    return value if plain else yaml.safe_dump(value, default_style='"', allow_unicode=True, width=math.inf).rstrip()
