"""Which losses serve a pair of networks, and so which methods are compared."""

from collections.abc import Iterable

from deploy import plugins
from deploy.contract import ModelContract
from deploy.errors import ConfigError
from pipeline.arena.variants import compares_unlabelled, method
from pipeline.config import PipelineConfig
from stages.config import DistillConfig
from stages.config.compare import JOINT, UNLABELLED_PARTS, losses_of, parts_of, unlabelled_of

WHOLE_SECTION, FEATURES_ONLY, PSEUDO_ONLY = UNLABELLED_PARTS


def methods_of(config: PipelineConfig) -> list[str]:
    """The methods that are compared: those named, which must serve the pair, or all that do, those of the file's losses first.

    Raises:
        ConfigError: a method that is named does not serve the pair, or none does; the control is not one of them.
    """
    refused = refusals(config)
    named = config.compare.methods
    for name in named or ():
        part, losses = unlabelled_of(name), losses_of(name)
        reasons = [None if part is None else why_not_unlabelled(config, part, losses), *(refused[loss] for loss in losses)]
        for why in reasons:
            if why is not None:
                raise ConfigError(f"compare.methods: {name}: {why}; leave it out")
    found = [*named] if named is not None else _all(config, [loss for loss, why in refused.items() if why is None])
    control = config.compare.control
    if control is not None and set(parts_of(control)) not in [set(parts_of(name)) for name in found]:
        problem = f"compare.control: {control} is not one of the methods{plugins.suggest(control, found)}"
        raise ConfigError(f"{problem}; choose from {', '.join(found)}, or leave it out")
    return found


def _all(config: PipelineConfig, serving: list[str]) -> list[str]:
    if not serving:
        raise ConfigError("compare.methods: no loss serves this pair; choose a different student or teacher")
    own = [loss.name for loss in config.distill.losses if loss.name in serving]
    joint = [loss.name for loss in config.distill.losses if loss.enabled and loss.name in serving]
    together = [JOINT.join(joint)] if len(joint) > 1 else []
    with_more = [JOINT.join([*joint, WHOLE_SECTION])] if joint and why_not_unlabelled(config, WHOLE_SECTION, joint) is None else []
    return [*own, *together, *with_more, *(loss for loss in serving if loss not in own)]


def why_not_unlabelled(config: PipelineConfig, part: str, losses: Iterable[str]) -> str | None:
    """Why a method of these losses cannot use this part of distill.unlabelled; None if it can."""
    own = config.distill.from_unlabelled
    if own is None:
        return "distill.unlabelled is not set, so no image without labels is used"
    if own.only:
        return "distill.unlabelled has only: true, and the losses' weights are measured on labeled images"
    if own.pseudo is None and part == PSEUDO_ONLY:
        return "distill.unlabelled.pseudo is null"
    labels = own.pseudo is not None and part != FEATURES_ONLY
    if not labels and not compares_unlabelled(losses):
        return "its losses read targets, so they compare nothing on images without labels"
    return None


def refusals(config: PipelineConfig) -> dict[str, str | None]:
    """Why each loss cannot teach this student, by its name; None if it can. Networks are built without pretrained weights."""
    # Imported here: a comparison whose trainings are all there is drawn with nothing but its artifacts, if its methods are named.
    from stages.training.checkpoint import build_detector
    from stages.training.distillation import build_losses

    anything = ModelContract(preprocessing=config.data.preprocessing, classes=("one", "other"), category_ids=(1, 2))
    student, teacher = (
        build_detector(choice, len(anything.classes), pretrained=False) for choice in (config.student.detector, config.teacher.detector)
    )
    found: dict[str, str | None] = {}
    for name in plugins.names("stages.losses"):
        taught = method(config, name).distill
        assert isinstance(taught, DistillConfig)
        try:
            build_losses(taught, student, teacher, config.seed)
            found[name] = None
        except ConfigError as error:
            found[name] = _reason(str(error), name)
    return found


def _reason(message: str, loss: str) -> str:
    """The reason in a refusal of a loss, which names the section and ends with advice."""
    return message.removeprefix("distill.losses: ").removeprefix(f"{loss}: ").partition("; ")[0]
