"""What a complete run made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.bundles.manifest import Verdict
from pipeline.baselines import Baselines
from pipeline.config import PipelineConfig
from pipeline.store.store import StageRecord
from stages.artifacts import (
    Checkpoint,
    Dataset,
    Engine,
    Gains,
    ImagePool,
    Measurement,
    OnnxModel,
    Package,
    Parity,
    PseudoLabels,
    Report,
    Robustness,
    Verdicts,
)
from stages.config import TargetConfig
from stages.measurement.crowded import noted
from stages.measurement.robust import Elsewhere
from stages.measurement.verdicts import exit_code
from stages.notes import Note


@dataclass(frozen=True)
class TargetResult:
    """One target's engine, its measurements and verdicts, and its bundle."""

    config: TargetConfig
    engine: Engine
    report: Report
    parity: Parity
    verdicts: Verdicts
    bundle: Package


@dataclass(frozen=True)
class RunResult:
    """Everything that a complete run made.

    `gains` compares the student with the baselines. `measurement` has the latencies of all engines. `references` are the reports of the
    teacher and of the stronger baseline as ONNX Runtime fp32 engines, under "teacher" and "baseline". `stages` has one record per stage
    instance, in the order of the flow. `robust`: what was measured elsewhere and its figures; null if the run was not asked for it. `pool`:
    the images without labels, and `labels` what the teacher found in them; null if there are none.
    """

    config: PipelineConfig
    dataset: Dataset
    teacher: Checkpoint
    baselines: Baselines
    student: Checkpoint
    gains: Gains
    onnx: OnnxModel
    targets: tuple[TargetResult, ...]
    references: Mapping[str, Report]
    measurement: Measurement
    stages: tuple[StageRecord, ...]
    robust: tuple[Elsewhere, Robustness] | None = None
    pool: ImagePool | None = None
    labels: PseudoLabels | None = None

    @property
    def networks(self) -> dict[str, Checkpoint]:
        """The trained networks by their names in summary.json; a baseline that serves as both has both names."""
        return self.baselines.between(self.teacher, self.student)

    @property
    def shown(self) -> dict[str, Checkpoint]:
        """The three networks that are compared picture by picture and class by class; the baseline is the stronger one."""
        stronger = self.baselines.stronger
        return {"teacher": self.teacher, **({} if stronger is None else {"baseline": stronger[1]}), "student": self.student}

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was repaired, assumed or left out, of labeled images and those without labels, and objects that no engine finds."""
        own = noted(self.dataset, self.config.export.max_detections)
        return own + (() if self.pool is None else self.pool.facts.notes)

    @property
    def robustness(self) -> Robustness | None:
        """The figures of robustness, if the run was asked for them."""
        return None if self.robust is None else self.robust[1]

    def exit_code(self, verdicts: Sequence[Verdict]) -> int:
        """The program's exit code, given the verdicts on all targets."""
        required = [target.config.name for target in self.targets if target.config.required]
        unmeasured = [target.config.name for target in self.targets if target.report.facts.why is not None]
        return exit_code(verdicts, self.config.gates, required=required, unmeasured=unmeasured)
