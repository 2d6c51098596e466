"""Section compare: which methods of distillation `edgedistill compare` tries, how often, and how each is tuned."""

from collections import Counter
from typing import Annotated

from pydantic import Field, field_validator

from deploy import plugins
from deploy.contract import Frozen

MOST_TRIALS = 7
JOINT = "+"
"""Joins the parts of a method: "attention+non_local"."""
UNLABELLED_PARTS = ("unlabelled", "unlabelled.features", "unlabelled.pseudo")
"""What a method may have in addition to its losses: the section distill.unlabelled, or only one half of it."""

Seeds = Annotated[int, Field(ge=2, le=100)]


class CompareConfig(Frozen):
    """What is compared, and with how many trainings."""

    methods: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="losses of `stages/losses`, each or several joined by +, and with `+unlabelled` images without labels, too; null: each "
        "loss that serves the pair, and the file's together",
    )
    seeds: Seeds = Field(default=5, description="number of seeds, counting up from `seed`")
    trials: int = Field(
        default=3, ge=1, le=MOST_TRIALS, description="strengths that are tried of every method; 1: none, `distill.share` is used"
    )
    tuning_split: str | None = Field(default=None, description="split that trials are judged on; null: a fifth of train, held out for them")
    control: str | None = Field(
        default=None, description="the method that is also trained with a random teacher; null: the one that leads in the trials"
    )
    teacher_gb: float = Field(
        default=2.0,
        ge=0,
        le=1000,
        description="disk space in GB, while `compare` or `ablate` trains on a CPU, for what the teacher makes of the training images: all "
        "methods at a seed share it; 0: each computes it",
    )

    @field_validator("methods")
    @classmethod
    def _known_and_distinct(cls, methods: tuple[str, ...] | None) -> tuple[str, ...] | None:
        known = plugins.names("stages.losses")
        for method in methods or ():
            parts = losses_of(method)
            for name in parts:
                if name not in known:
                    more = plugins.suggest(name, [*known, *UNLABELLED_PARTS])
                    raise ValueError(f"no loss '{name}'{more}; choose from {', '.join(known)}")
            if len(set(parts)) < len(parts):
                raise ValueError(f"{method} has a loss twice; name each once")
            unlabelled = [part for part in parts_of(method) if part in UNLABELLED_PARTS]
            if len(unlabelled) > 1:
                raise ValueError(f"{method} has {' and '.join(unlabelled)}; choose one of them")
            if unlabelled and not parts:
                raise ValueError(f"{method} has no loss; join it to one, such as {known[0]}{JOINT}{method}")
        for same, count in Counter(frozenset(parts_of(method)) for method in methods or ()).items():
            if count > 1:
                raise ValueError(f"{JOINT.join(sorted(same))} is listed {count} times; list each method once")
        return methods


def parts_of(method: str) -> tuple[str, ...]:
    """The names of a method's losses and, if it uses images without labels, what of them."""
    return tuple(part.strip() for part in method.split(JOINT))


def losses_of(method: str) -> tuple[str, ...]:
    """The names of a method's losses."""
    return tuple(part for part in parts_of(method) if part not in UNLABELLED_PARTS)


def unlabelled_of(method: str) -> str | None:
    """What a method uses of the section distill.unlabelled; None: nothing."""
    return next((part for part in parts_of(method) if part in UNLABELLED_PARTS), None)
