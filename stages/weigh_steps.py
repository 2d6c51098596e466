"""Measures the memory of the student's plain and of its distilled training step, and counts the parameters that only losses need."""

from pathlib import Path

from stages.artifacts import Dataset, StepMemory
from stages.config import DetectorConfig, DistillConfig, StudentConfig
from stages.facts import write_facts
from stages.stage import stage


@stage(version=2)
def weigh_steps(
    out: Path, config: DistillConfig, student: StudentConfig, teacher: DetectorConfig, device: str, dataset: Dataset
) -> StepMemory:
    """On networks with fresh weights; takes what `time_steps` takes, see stages.time_steps.step_options.

    Raises:
        ConfigError: a loss cannot be built for this pair.
        DataError: an image is unusable.
    """
    # Imported here: a stage that is reused, or judged on a machine without torch, must not import torch.
    from stages.training.costs.memory import measure_memory

    write_facts(out, measure_memory(out, config, student, teacher, device, dataset))
    return StepMemory(out)
