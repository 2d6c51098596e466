"""The ways to train the student that are compared.

Without a teacher, with some losses, for longer, with a random teacher, with images without labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deploy.errors import ConfigError
from pipeline.config import PipelineConfig
from pipeline.results.ablation import BASELINE, TOGETHER
from stages.config import DistillConfig, LossConfig, StudentConfig
from stages.config.compare import JOINT, losses_of

EQUAL_COST, RANDOM = "baseline, equal cost", "random teacher"
"""What tables call the baseline that trains for as long as the slowest method, and the control."""

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


def ablation(config: PipelineConfig) -> tuple[Variant, ...]:
    """The baseline, each loss by itself and, if there are several, all of them as configured; then each part of `distill.unlabelled`.

    Raises:
        ConfigError: no loss has a weight above 0.
    """
    taught = config.distill.labeled
    chosen = {name: taught.model_copy(update={"losses": losses}) if losses else None for name, losses in ablated(config).items()}
    return tuple(Variant(name, config.student, one) for name, one in (chosen | unlabelled_variants(config)).items())


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
    parts: dict[str, dict[str, Any]] = {"unlabelled features": {"pseudo": None, "refine": None, "features": True}} if not own.only else {}
    if own.pseudo is not None:
        parts["unlabelled pseudo-labels"] = {"features": False, "refine": None}
        parts["unlabelled, both"] = {"features": True, "refine": None}
    if own.refine is not None:
        parts["unlabelled, refined"] = {"refine": own.refine}
    return {name: config.distill.model_copy(update={"unlabelled": own.model_copy(update=part)}) for name, part in parts.items()}


def method(config: PipelineConfig, name: str) -> Variant:
    """The student with a method's losses, each with `weight: auto`, and with the options of `distill.losses` if it is listed there."""
    given = {loss.name: loss for loss in config.distill.losses}
    fresh = (given.get(loss) or LossConfig.model_validate({"name": loss}) for loss in losses_of(name))
    losses = tuple(loss.model_copy(update={"weight": "auto"}) for loss in fresh)
    joined = f" {JOINT} ".join(loss.name for loss in losses)
    return Variant(joined, config.student, config.distill.labeled.model_copy(update={"losses": losses}))


def shares(usual: float, trials: int) -> tuple[float, ...]:
    """The shares of the gradient that a method is tried with: the usual one first, then weaker and stronger in turn.

    Args:
        usual: above 0, below 1.
        trials: how many.
    """
    powers = [0, *(sign * step for step in range(1, trials) for sign in (-1, 1))][:trials]
    odds = [usual / (1 - usual) * FACTOR**power for power in powers]
    return tuple(round(one / (1 + one), 4) for one in odds)


def with_share(variant: Variant, share: float) -> Variant:
    """The method at a strength."""
    assert variant.distill is not None
    return Variant(variant.name, variant.student, variant.distill.model_copy(update={"share": share}), variant.teacher)


def joint_names(config: PipelineConfig) -> Sequence[str]:
    """The method of all the losses that the file trains with, if there are several."""
    enabled = [loss.name for loss in config.distill.losses if loss.enabled]
    return [JOINT.join(enabled)] if len(enabled) > 1 else []
