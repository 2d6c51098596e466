"""Measures how many times as long as the student's plain training step a distilled one takes; what it trains is thrown away."""

from pathlib import Path

from deploy import machine
from stages.artifacts import Dataset, StepTimes
from stages.config import DetectorConfig, DistillConfig, PseudoConfig, StudentConfig, TeacherConfig, TrainConfig
from stages.facts import StepTimeFacts, write_facts
from stages.stage import stage

NO_MATTER = ("epochs", "learning_rate", "momentum", "betas", "weight_decay", "warmup_steps", "schedule", "milestones", "gamma")
"""Options of a training that do not change the time of a step."""


def step_options(
    distill: DistillConfig, student: StudentConfig, teacher: TeacherConfig
) -> tuple[DistillConfig, StudentConfig, DetectorConfig]:
    """The parts of the configuration that decide how long a step takes; no other change measures again."""
    losses = tuple(loss.model_copy(update={"weight": 1.0}) for loss in distill.losses if loss.enabled)
    usual = {name: TrainConfig.model_fields[name].default for name in NO_MATTER}
    train = student.train.model_copy(update=usual | {"learning_rate": 1e-6})  # nothing is to be learned, or to diverge
    usual_share = DistillConfig.model_fields["share"].default
    taught = distill.model_copy(update={"losses": losses, "warmup_steps": 0, "fade": "none", "shares_every": 0, "share": usual_share})
    if (own := distill.from_unlabelled) is not None:
        usual_rule = None if own.pseudo is None else PseudoConfig()
        taught = taught.model_copy(
            update={"unlabelled": own.model_copy(update={"pseudo": usual_rule, "refine": None, "images": None, "classes": None})}
        )
    else:
        taught = taught.labeled
    return taught, StudentConfig(detector=student.detector, train=train), teacher.detector


@stage(version=1, distributed=True)
def time_steps(
    out: Path, config: DistillConfig, student: StudentConfig, teacher: DetectorConfig, device: str, dataset: Dataset
) -> StepTimes:
    """Both steps alternately, on images of split train and networks with fresh weights; torch's random state is left as it is.

    The machine is not part of the key: a finished run keeps its epochs wherever its store goes.

    Raises:
        ConfigError: a loss cannot be built for this pair.
        DataError: an image is unusable.
    """
    # Imported here: a stage that is reused, or judged on a machine without torch, must not import torch.
    from stages.processes import is_main_process
    from stages.training.costs.timing import measure_steps

    found = measure_steps(out, config, student, teacher, device, dataset)
    if is_main_process():
        facts = StepTimeFacts(
            plain_s=found.plain_s,
            distilled_s=found.distilled_s,
            ratio=found.ratio,
            rounds=found.rounds,
            device=found.device,
            machine=machine.identity(),
        )
        write_facts(out, facts)
    return StepTimes(out)
