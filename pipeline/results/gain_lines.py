"""What distillation gained, in words: at equal cost, at equal steps, and how sure that is."""

from collections.abc import Mapping
from typing import Any

from deploy.comparison.gain import DistillationGain, GainOver
from deploy.comparison.interval import MIN_IMAGES

LEGEND = "baseline: the student's network trained without the teacher"


def gain_of(summary: Mapping[str, Any]) -> DistillationGain:
    """The gains in summary.json."""
    return DistillationGain.model_validate(summary["gain"])


def figures_lines(summary: Mapping[str, Any]) -> list[str]:
    """The gains in mAP, the smaller first, and the share of the gap to the teacher that the first of them closes."""
    gain = gain_of(summary)
    if not gain.ordered():
        return unjudged(gain)
    every = [f"{_number(over)}{_interval(over)} at equal {equal}" for equal, over in gain.ordered()]
    every[0] = every[0].replace(" at ", " map at ", 1)
    first = next(equal for equal, _ in gain.ordered())
    closed = summary["gap_closed_equal_cost" if first == "cost" else "gap_closed"]
    images = f"{gain.num_images} images of split {gain.split}"
    intervals = "; in parentheses: 95% interval over the images" if any(map(_interval, dict(gain.ordered()).values())) else ""
    share = "" if closed is None else f"{closed:z.0%} of the gap to the teacher at equal {first}; "
    return [f"gain from distillation: {', '.join(every)}", f"{share}on {images}{intervals}"]


def unjudged(gain: DistillationGain) -> list[str]:
    """What is known of a student without a baseline."""
    if (found := gain.agreement) is None:
        return ["gain from distillation: -"]
    boxes = f"the {found.num_boxes} boxes that the teacher is sure of in {gain.num_images} images of split {gain.split}"
    figures = ", ".join(
        f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in (("map", found.map), ("map_50", found.map_50))
    )
    return [f"agreement with the teacher's boxes: {figures}, with {boxes}; that is not accuracy"]


def legend(gain: DistillationGain) -> list[str]:
    """What the baselines are, and how they come to their epochs; nothing without any."""
    if not gain.ordered():
        return []
    if gain.step_ratio is None:
        return [f"{LEGEND}, for as many steps"]
    kinds = "for as many steps and, at equal cost, for as long"
    if gain.is_one_network:
        kinds = f"for {gain.epochs} epochs, which are as many steps and take about as long"
    elif gain.equal_cost is None or gain.equal_steps is None:
        kinds = "for as many steps" if gain.equal_cost is None else "for as long"
    ratio = gain.step_ratio
    interval = f"95% interval {ratio.low:.2f} to {ratio.high:.2f}"
    return [f"{LEGEND}, {kinds}", f"a distilled step takes {ratio.ratio:.2f} times as long as a plain one ({interval})"]


def warnings(gain: DistillationGain) -> list[str]:
    """What the gains leave open, a clause each."""
    which = "there is no baseline at equal cost" if gain.ordered() else "there is no baseline"
    missing = None if gain.left_out is None else f"{which}: {gain.left_out}"
    return [clause for clause in (missing, untold(gain)) if clause is not None]


def untold(gain: DistillationGain) -> str | None:
    """Which gains the images cannot tell from 0, if any."""
    if not gain.ordered():
        return None
    if gain.num_images < MIN_IMAGES:
        return f"{gain.num_images} images are too few to tell any of these gains from 0; at least {MIN_IMAGES} are needed"
    if all(over.gain is not None and over.low is None for _, over in gain.ordered()):
        few = f"too few of the {gain.num_images} images have objects to tell any of these gains from 0"
        return f"{few}; at least {MIN_IMAGES} are needed"
    unsure = [f"at equal {equal}" for equal, over in gain.ordered() if over.low is not None and not over.is_told]
    return f"{gain.num_images} images are too few to tell the gain {' or '.join(unsure)} from 0" if unsure else None


def unfinished_baseline(gain: DistillationGain) -> str | None:
    """That the baseline at equal steps had not finished learning, if the one that was trained for longer shows it."""
    steps, cost = gain.equal_steps, gain.equal_cost
    if steps is None or cost is None or steps.low is None or cost.gain is None or cost.gain >= steps.low:
        return None
    assert steps.map is not None
    assert cost.map is not None
    rise = f"in {cost.epochs} instead of {steps.epochs} epochs it gains {(cost.map - steps.map) * 100:.1f} points without any teacher"
    return f"at equal steps the baseline had not finished learning: {rise}"


def _number(over: GainOver) -> str:
    return "-" if over.gain is None else f"{over.gain:+.4f}"


def _interval(over: GainOver) -> str:
    return "" if over.low is None or over.high is None else f" ({over.low:+.3f} to {over.high:+.3f})"
