"""What the trainings of a comparison amount to: their figures, read from the store."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from deploy import plugins
from deploy.errors import ArtifactError, Diverged
from pipeline.arena.bouts import Bouts
from pipeline.arena.trainings import judged
from pipeline.arena.variants import EQUAL_COST, RANDOM, Variant
from pipeline.results.contest import SIZES, Contest, Entrant, StepCost, Tried
from stages.artifacts import Checkpoint
from stages.config import DistillConfig, LossConfig, UnlabelledConfig


def outcome(bouts: Bouts) -> Contest:
    """Read every result; what is missing is trained.

    Raises:
        ArtifactError: no method could be trained at every seed.
        DataError: mAP is undefined on the split.
    """
    arena, field, costs = bouts.arena, bouts.lineup, bouts.costs
    left_out: dict[str, str] = {} if (why := costs.why_no_longer()) is None else {EQUAL_COST: why}
    baselines = [_entrant(bouts, one, "baseline", [bouts.train_baseline(one, seed) for seed in field.seeds]) for one in costs.baselines()]
    methods = []
    for one in field.methods:
        try:
            tuned = bouts.tune(one)
            trained = [bouts.train(one, seed) for seed in field.seeds]
        except Diverged as error:
            left_out[one.name] = str(error)
            continue
        methods.append(_entrant(bouts, tuned.variant, "method", trained, tuned.trials, _cost(bouts, one)))
    if not methods:
        raise ArtifactError(f"no method could be trained at every seed; {'; '.join(left_out.values())}")
    teacher = arena.teacher().facts.accuracy
    control = _control(bouts, left_out)
    same = len(baselines) == 1 and not why
    return Contest(
        name=arena.config.name,
        split=teacher.split,
        num_images=teacher.num_images,
        seeds=field.seeds,
        tuning=(field.tuning_seed, arena.tuning_images()[1]) if field.tried else None,
        teacher=teacher.map,
        random_teacher=None if control is None else arena.teacher(random=True).facts.accuracy.map,
        baseline=baselines[0],
        equal_cost=None if same or why else baselines[-1],
        methods=tuple(methods),
        control=control,
        control_method=None if control is None else bouts.leader().name,
        left_out=left_out,
    )


def _control(bouts: Bouts, left_out: dict[str, str]) -> Entrant | None:
    try:
        variant = bouts.control()
        return _entrant(bouts, variant, "control", [bouts.train_control(seed) for seed in bouts.lineup.seeds])
    except Diverged as error:
        left_out[RANDOM] = str(error)
        return None


def _entrant(
    bouts: Bouts,
    variant: Variant,
    role: Literal["baseline", "method", "control"],
    trained: Sequence[Checkpoint],
    trials: tuple[Tried, ...] = (),
    cost: StepCost | None = None,
) -> Entrant:
    every = [one.facts.accuracy for one in trained]
    masks = [one.segmentation.map for one in every if one.segmentation is not None]
    known = [value for value in masks if value is not None]
    return Entrant(
        name=variant.name,
        role=role,
        epochs=variant.student.train.epochs,
        maps=tuple(judged(one) for one in trained),
        masks=tuple(known) if len(known) == len(every) else None,
        sizes={size: _mean(getattr(one, size) for one in every) for size in SIZES},
        classes={name: _mean(one.per_class[name] for one in every) for name in every[0].per_class},
        distill=None if variant.distill is None else to_paste(variant.distill, bouts.arena.config.distill.unlabelled),
        trials=trials,
        cost=cost,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _cost(bouts: Bouts, method: Variant) -> StepCost:
    times, memory = bouts.costs.times[method.name], bouts.arena.memory(method).facts
    more = memory.distilled_bytes - memory.plain_bytes
    return StepCost(bouts.costs.plain_s * times.ratio.ratio, times.ratio, more, memory.extra_parameters)


def to_paste(config: DistillConfig, given: UnlabelledConfig | None = None) -> dict[str, Any]:
    """The section of pipeline.yaml, without what has its default.

    Args:
        given: the file's `distill.unlabelled`. Without such images, its ratio is 0: the file may name them, and classes of the teacher.
    """
    if config.unlabelled is None and given is not None:
        config = config.model_copy(update={"unlabelled": UnlabelledConfig(ratio=0, classes=given.classes)})
    section = config.model_dump(mode="json", exclude_defaults=True, exclude={"losses"})
    return {**section, "losses": [_set(loss) for loss in config.losses]}


def _set(loss: LossConfig) -> dict[str, Any]:
    fields = plugins.schema("stages.losses", loss.name).model_fields
    options: Mapping[str, Any] = loss.model_dump(mode="json")
    usual = {name: json.loads(json.dumps(field.default, default=str)) for name, field in fields.items()}
    return {key: value for key, value in options.items() if key not in usual or value != usual[key]}
