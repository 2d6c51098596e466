"""The ways to train the student that are compared.

Without a teacher, with some losses, for longer, with a random teacher, with images without labels.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deploy import plugins
from deploy.errors import ConfigError
from pipeline.config import PipelineConfig
from pipeline.results.ablation import BASELINE, TOGETHER
from stages.config import DistillConfig, LossConfig, StudentConfig, UnlabelledConfig
from stages.config.compare import JOINT, losses_of, unlabelled_of

EQUAL_COST, RANDOM = "baseline, equal cost", "random teacher"
"""What tables call the baseline that trains for as long as the slowest method, and the control."""

FEATURES: dict[str, Any] = {"features": True, "pseudo": None, "refine": None}
PSEUDO: dict[str, Any] = {"features": False, "refine": None}
"""What leaves one half of distill.unlabelled."""

FACTOR = 3.0
"""How much stronger one trial is than the next weaker one: the odds of the losses' share of the gradient."""


@dataclass(frozen=True)
class Variant:
    """One way to train the student; everything else, such as the seed, is the same for all.

    distill: None trains without a teacher. teacher: "random" has random weights.
    """

    name: str
    student: StudentConfig
    distill: DistillConfig | None = None
    teacher: Literal["trained", "random"] = "trained"


def ablation(config: PipelineConfig, counts: Sequence[int] = ()) -> tuple[Variant, ...]:
    """The baseline, each loss by itself and, if there are several, all of them as configured; then each part of `distill.unlabelled`.

    Args:
        counts: numbers of images without labels with which the section is also trained.

    Raises:
        ConfigError: no loss has a weight above 0.
    """
    taught = config.distill.labeled
    chosen = {name: taught.model_copy(update={"losses": losses}) if losses else None for name, losses in ablated(config).items()}
    every = chosen | unlabelled_variants(config) | _with_images(config, counts)
    return tuple(Variant(name, config.student, one) for name, one in every.items())


def ablated(config: PipelineConfig) -> dict[str, tuple[LossConfig, ...]]:
    """The losses of each variant of `ablation` by its name.

    Raises:
        ConfigError: no loss has a weight above 0.
    """
    losses = [loss for loss in config.distill.losses if loss.enabled]
    if not losses:
        raise ConfigError("distill.losses: all have weight 0, so there is nothing to compare; set one weight above 0")
    alone: dict[str, tuple[LossConfig, ...]] = {loss.name: (loss,) for loss in losses}
    return {BASELINE: (), **alone, **({TOGETHER: config.distill.losses} if len(losses) > 1 else {})}


def unlabelled_variants(config: PipelineConfig) -> dict[str, DistillConfig]:
    """With `distill.unlabelled`: all losses, and what each part of the section adds to them; empty without it."""
    own = config.distill.from_unlabelled
    if own is None:
        return {}
    compares = compares_unlabelled(_enabled(config.distill.losses))
    parts: dict[str, dict[str, Any]] = {"unlabelled features": FEATURES} if compares and not own.only else {}
    if own.pseudo is not None:
        parts["unlabelled pseudo-labels"] = PSEUDO
        if compares:
            parts["unlabelled, both"] = {"features": True, "refine": None}
    if own.refine is not None:
        parts["unlabelled, refined"] = {"refine": own.refine}
    return {name: config.distill.model_copy(update={"unlabelled": own.model_copy(update=part)}) for name, part in parts.items()}


def _with_images(config: PipelineConfig, counts: Sequence[int]) -> dict[str, DistillConfig]:
    """`distill.unlabelled` as it is, with at most each number of images."""
    own = config.distill.from_unlabelled
    if own is None:
        return {}
    made = {count: own.model_copy(update={"images": count}) for count in counts}
    return {f"unlabelled, {count} images": config.distill.model_copy(update={"unlabelled": one}) for count, one in made.items()}


def method(config: PipelineConfig, name: str) -> Variant:
    """The student with a method's losses, each with `weight: auto`, and with the options of `distill.losses` if it is listed there."""
    given = {loss.name: loss for loss in config.distill.losses}
    fresh = (given.get(loss) or LossConfig.model_validate({"name": loss}) for loss in losses_of(name))
    losses = tuple(loss.model_copy(update={"weight": "auto"}) for loss in fresh)
    part = unlabelled_of(name)
    joined = f" {JOINT} ".join([*(loss.name for loss in losses), *([part] if part else [])])
    taught = config.distill.labeled if part is None else config.distill.model_copy(update={"unlabelled": _part(config, part)})
    return Variant(joined, config.student, taught.model_copy(update={"losses": losses}))


def _part(config: PipelineConfig, part: str) -> UnlabelledConfig:
    own = config.distill.from_unlabelled
    assert own is not None, "refused where the methods are read"
    return own.model_copy(update={"unlabelled": {}, "unlabelled.features": FEATURES, "unlabelled.pseudo": PSEUDO}[part])


def untaught(distill: DistillConfig) -> DistillConfig:
    """The same for a teacher that knows nothing: none of its detections would be a target, so there are no pseudo-labels."""
    own = distill.from_unlabelled
    if own is None:
        return distill
    compares = own.features and compares_unlabelled(_enabled(distill.losses))
    return distill.model_copy(update={"unlabelled": own.model_copy(update=FEATURES) if compares else None})


def compares_unlabelled(losses: Iterable[str]) -> bool:
    """Whether one of the losses can compare the networks on images without labels: it reads no targets."""
    return any("targets" not in plugins.constant("stages.losses", name, "READS") for name in losses)


def _enabled(losses: Iterable[LossConfig]) -> list[str]:
    return [loss.name for loss in losses if loss.enabled]


def shares(usual: float, trials: int) -> tuple[float, ...]:
    """The shares of the gradient that a method is tried with: the usual one first, then weaker and stronger in turn.

    Args:
        usual: above 0, below 1.
        trials: how many.
    """
    powers = [0, *(sign * step for step in range(1, trials) for sign in (-1, 1))][:trials]
    odds = [usual / (1 - usual) * FACTOR**power for power in powers]
    return (usual, *(_rounded(one / (1 + one)) for one in odds[1:]))[:trials]


def _rounded(share: float) -> float:
    """Four decimals; more for a share near 0 or 1, which it must not reach."""
    return round(share, max(4, 3 - math.floor(math.log10(min(share, 1 - share)))))


def with_share(variant: Variant, share: float) -> Variant:
    """The method at a strength."""
    assert variant.distill is not None
    return Variant(variant.name, variant.student, variant.distill.model_copy(update={"share": share}), variant.teacher)
