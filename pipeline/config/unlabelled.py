"""What the sections on images without labels need of each other."""

from collections.abc import Sequence

from stages.config import DataConfig, DistillConfig, StudentConfig, TargetConfig, TeacherConfig

Problem = tuple[tuple[str | int, ...], str]
"""The key, and what is wrong with it."""


def problem(
    data: DataConfig, teacher: TeacherConfig, student: StudentConfig, distill: DistillConfig, targets: Sequence[TargetConfig]
) -> Problem | None:
    """The first section that cannot work with the others; None if all fit."""
    sections = {("teacher", "unlabelled"): teacher.unlabelled, ("distill", "unlabelled"): distill.unlabelled}
    given = [key for key, section in sections.items() if section is not None]
    if given and not data.unlabelled_folders:
        return given[0], "there are no images for it; set data.unlabelled to a folder of images"
    if data.unlabelled_folders and not given:
        return (
            "data",
            "unlabelled",
        ), "nothing learns from these images; add distill.unlabelled: {} or teacher.unlabelled: {}, or leave it out"
    own = distill.from_unlabelled
    if own is None:
        return None
    if own.refine is not None and not student.train.ema:
        return (
            "distill",
            "unlabelled",
            "refine",
        ), "the averaged student labels, and student.train.ema averages none; set it, such as 0.998"
    return _needs_labels(distill, targets) if own.only else None


def _needs_labels(distill: DistillConfig, targets: Sequence[TargetConfig]) -> Problem | None:
    """What learns from labeled images, where the student is to see none."""
    if any(loss.weight == "auto" for loss in distill.losses):
        return ("distill", "unlabelled", "only"), "weight: auto (the default) needs labeled images; give the losses numbers as weights"
    for index, target in enumerate(targets):
        if target.finetunes:
            key = "targets", index, "int8", "finetune"
            return key, "it trains on labeled images, of which the student sees none with distill.unlabelled.only; leave out one of them"
    return None
