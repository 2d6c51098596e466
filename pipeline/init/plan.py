"""The choices: input size, networks and lengths of training that fit the minutes, the data and the latency."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from deploy.errors import ConfigError
from pipeline.init.folder import LabeledFolder
from pipeline.init.networks import ON_CPU, ON_GPU, NetworkPair, weights_here, with_weights
from pipeline.init.sizes import PLENTY_PX, InputSize, Levels, candidates, levels, wanted
from pipeline.init.speed import Speed, device_of

MARGIN = 0.85
"""Share of the minutes that the estimate may fill."""

VAL_SHARE = 0.2
ENOUGH = 5000
"""Passes of images with eight objects from which on a larger input gains less than it costs in passes.

On blood cells, at equal minutes: 8,200 passes at 96 x 64 px gave a student of 0.379 mAP, 4,200 at 128 x 96 px 0.420, 2,600 at
160 x 128 px 0.403.
"""

PLENTY, LAVISH = 1.7, 2.5
"""How many times as many passes a larger pair, or a larger input, should have: a small network that is trained longer is better."""

LONG = 8000
"""Passes of each of the four trainings from which on there is room for a second baseline, and for losses of full weight.

On nuclei, 3,000 passes: losses of weight 1 cost the student 1.1 points. With `weight: auto`, in 4,000 to 6,000 passes on nuclei and blood
cells, it is level with its baseline at a share of 0.3, and at 0.7 it is not on one of three. On blood cells, 11,000 passes with weight 1:
level; on digits, 18,000: 2.3 points above it.
"""

FEWEST, USUAL_OBJECTS = 2500, 8.0
MOST_PASSES, MOST_EPOCHS = 40_000, 400
FIXED_S = 140.0
"""Timing steps, exports, builds, latency and report, whatever the data: measured on two cores."""

EQUAL_COST = "baseline at equal cost"

JUDGED = 13
"""Passes over the split that is judged on, over all networks and engines."""


@dataclass(frozen=True)
class Wish:
    """What the command line asks for; `latency` in ms, None: none."""

    minutes: float = 40.0
    latency: float | None = None
    device: str = "auto"


@dataclass(frozen=True)
class FirstPlan:
    """What pipeline.yaml will say.

    train_images, val_images: how many there will be. seconds: per network that is trained, and "rest"; wished: the minutes asked for.
    measured: whether the speed was.
    """

    size: InputSize
    levels: Levels
    pair: NetworkPair
    epochs: int
    batch: int
    train_images: int
    val_images: int
    seconds: dict[str, float]
    wished: float
    latency_ms: float
    device: str
    measured: bool

    @property
    def num_steps(self) -> int:
        """Steps of each training."""
        return self.epochs * max(1, self.train_images // self.batch)

    @property
    def minutes(self) -> float:
        """Estimate for the whole run."""
        return sum(self.seconds.values()) / 60

    @property
    def longest_minutes(self) -> int | None:
        """A limit for the baseline at equal cost with room for an estimate that is too low; None: that baseline is left out."""
        return max(60, math.ceil(2 * self.seconds[EQUAL_COST] / 60)) if EQUAL_COST in self.seconds else None

    @property
    def warning(self) -> str | None:
        """What is wrong with the minutes, if anything."""
        rest = self.seconds["rest"] / 60
        epoch = self.minutes - rest
        if epoch > self.wished:
            return f"a single epoch takes longer than the {self.wished:g} minutes asked for; use fewer images or a faster machine"
        if self.minutes > self.wished:
            parts = f"all that is not training takes about {rest:.1f} minutes and a single epoch {epoch:.1f}"
            return f"{parts}, together more than the {self.wished:g} asked for; pass --minutes with a larger number"
        return None if self.learned else "too short to learn much; pass --minutes with a larger number"

    @property
    def learned(self) -> bool:
        """Whether the minutes suffice for most of what the networks can learn."""
        return self.epochs * self.train_images >= FEWEST


@dataclass(frozen=True)
class _Option:
    """A pair at a size, with the seconds per training image of teacher and student."""

    pair: NetworkPair
    size: InputSize
    levels: Levels
    teacher_s: float
    student_s: float

    @property
    def per_pass(self) -> float:
        """Seconds for an image in all four trainings."""
        return sum(self.costs().values())

    @property
    def distilled_s(self) -> float:
        """Seconds for an image in the distilled training, which also runs the teacher and its losses."""
        return 1.2 * self.student_s + 0.4 * self.teacher_s

    def costs(self, *, equal_cost: bool = True) -> dict[str, float]:
        """Seconds for an image in each training; the baseline at equal cost takes as long as the distilled student."""
        longer = {EQUAL_COST: self.distilled_s} if equal_cost else {}
        return {"teacher": self.teacher_s, "baseline": self.student_s, **longer, "student": self.distilled_s}


def plan(folder: LabeledFolder, wish: Wish) -> FirstPlan:
    """Choose everything that depends on the data and on this machine.

    Raises:
        ConfigError: no network is fast enough for the latency.
    """
    device = device_of(wish.device)
    sizes = candidates(folder)
    pairs, weights = (ON_GPU if device == "cuda" else ON_CPU), weights_here()
    base, speed = sizes[wanted(sizes)], Speed(device, len(folder.classes))
    train, val = _counts(folder)
    budget, needed = wish.minutes * 60 * MARGIN, max(enough(folder), train)
    place = pairs[0].student, levels(folder, base), base
    for _ in range(2):  # the second time with the speed at about the size that is chosen
        speed = speed.measured(*place)
        options = [_option(folder, speed, with_weights(pair, levels(folder, size), weights), size) for size in sizes for pair in pairs]
        chosen = _choose(_fast_enough(options, speed, wish.latency), base, needed, lambda one: budget - _rest(one, val))
        place = chosen.pair.student, chosen.levels, chosen.size
    exact = _exactly(chosen, speed)
    batch = 16 if device == "cuda" and train >= 256 else 8 if train >= 64 else min(4, train)
    left = budget - _rest(exact, val)
    costs = exact.costs(equal_cost=left / exact.per_pass >= max(needed, LONG))
    passes = min(max(MOST_PASSES, 20 * train), left / sum(costs.values()))
    epochs = max(1, min(MOST_EPOCHS, int(passes / train)))
    spent = {name: epochs * train * cost for name, cost in costs.items()}
    latency = speed.forward_ms(exact.pair.student, exact.levels, exact.size)
    return FirstPlan(
        size=exact.size,
        levels=exact.levels,
        pair=exact.pair,
        epochs=epochs,
        batch=batch,
        train_images=train,
        val_images=val,
        wished=wish.minutes,
        seconds=spent | {"rest": _rest(exact, val)},
        latency_ms=latency,
        device=wish.device,
        measured=speed.factor is not None,
    )


def enough(folder: LabeledFolder) -> float:
    """Passes of images that a training should have: fewer if every image has many objects."""
    return max(FEWEST, ENOUGH * min(1.5, math.sqrt(USUAL_OBJECTS / max(folder.per_image, 0.1))))


def _counts(folder: LabeledFolder) -> tuple[int, int]:
    """Images to train on and to judge on, once a share is set aside if there is no val split."""
    given = folder.num_images
    if "val" in given:
        return given["train"], given["val"]
    val = max(1, round(given["train"] * VAL_SHARE))
    return max(1, given["train"] - val), val


def _option(folder: LabeledFolder, speed: Speed, pair: NetworkPair, size: InputSize) -> _Option:
    shape = levels(folder, size)
    return _Option(pair, size, shape, speed.seconds(pair.teacher, shape, size), speed.seconds(pair.student, shape, size))


def _exactly(option: _Option, speed: Speed) -> _Option:
    """The option with both networks measured, if that is possible."""
    teacher, student = (speed.measured(one, option.levels, option.size) for one in (option.pair.teacher, option.pair.student))
    return replace(
        option,
        teacher_s=teacher.seconds(option.pair.teacher, option.levels, option.size),
        student_s=student.seconds(option.pair.student, option.levels, option.size),
    )


def _rest(option: _Option, val: int) -> float:
    """Seconds for everything that is not training: a forward pass costs about a third of a training image."""
    return FIXED_S + JUDGED * val * (option.student_s / 3 + 0.004) + val * option.teacher_s


def _fast_enough(options: Sequence[_Option], speed: Speed, latency: float | None) -> list[_Option]:
    if latency is None:
        return list(options)
    times = [speed.forward_ms(one.pair.student, one.levels, one.size) for one in options]
    found = [one for one, took in zip(options, times, strict=True) if took <= latency]
    if not found:
        raise ConfigError(f"--latency {latency:g}: the smallest network takes about {min(times):.1f} ms on this machine; allow more")
    return found


def _choose(options: Sequence[_Option], base: InputSize, needed: float, budget: Callable[[_Option], float]) -> _Option:
    """The best option that can learn enough in the time left for it.

    At the wanted size the largest pair that learns plenty, otherwise the smallest pair; if not even that learns enough there, the largest
    smaller size in which it does. If the largest pair has time to spare, more px.
    """
    smallest = min(options, key=lambda one: one.student_s).pair.student
    passes = {one: budget(one) / one.per_pass / needed for one in options}
    able = [one for one in options if passes[one] >= (1 if one.pair.student == smallest else PLENTY)]
    here = [one for one in able if one.size == base]
    if not here:
        smaller = [one for one in able if one.size.area < base.area]
        return max(smaller, key=lambda one: (one.size.area, one.teacher_s)) if smaller else max(options, key=passes.__getitem__)
    chosen = max(here, key=lambda one: one.teacher_s)
    more = [one for one in able if one.pair.student == chosen.pair.student and one.size.median <= PLENTY_PX and passes[one] >= LAVISH]
    return max((chosen, *more), key=lambda one: one.size.area)
