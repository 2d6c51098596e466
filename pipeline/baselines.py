"""What the student is compared with: its network, trained without the teacher."""

from dataclasses import dataclass

from deploy.comparison import metrics
from deploy.errors import ConfigError, DataError
from pipeline.config import PipelineConfig
from pipeline.store.store import Store
from stages.artifacts import Checkpoint, Dataset, StepTimes
from stages.datasets.cleaning import rules


@dataclass(frozen=True)
class Baselines:
    """The student's network trained without the teacher: for as many steps as the student, and for as long.

    Each is None if the run does without it; if the numbers of epochs are the same, both are one. `left_out` is why there is none at
    equal cost if the run meant to have it.
    """

    equal_steps: Checkpoint | None
    equal_cost: Checkpoint | None = None
    times: StepTimes | None = None
    left_out: str | None = None

    @property
    def by_equal(self) -> dict[str, Checkpoint]:
        """Those that there are, by what is equal to the student's training: "steps", "cost"."""
        both = {"steps": self.equal_steps, "cost": self.equal_cost}
        return {equal: baseline for equal, baseline in both.items() if baseline is not None}

    @property
    def networks(self) -> dict[str, Checkpoint]:
        """The same by their names in summary.json."""
        return {"baseline" if equal == "steps" else f"baseline_equal_{equal}": one for equal, one in self.by_equal.items()}

    @property
    def stronger(self) -> tuple[str, Checkpoint] | None:
        """The one with the higher mAP, and what it is called; None without any."""
        every = self.by_equal
        if not every:
            return None
        best = max(every, key=lambda equal: -1.0 if (reached := every[equal].facts.accuracy.map) is None else reached)
        return self.title(best), every[best]

    def compared(self, store: Store) -> tuple[str, Checkpoint | None]:
        """What gates compare with, None if nothing; a dry run takes the one at equal cost for the stronger until all are trained."""
        every = self.by_equal
        if all(map(store.has, every.values())):
            return self.stronger or ("baseline", None)
        equal, last = [*every.items()][-1]
        return self.title(equal), last

    def between(self, teacher: Checkpoint, student: Checkpoint) -> dict[str, Checkpoint]:
        """All trained networks by their names in summary.json."""
        return {"teacher": teacher, **self.networks, "student": student}

    def title(self, equal: str) -> str:
        """What one is called: what is equal is named if the run has, or meant to have, the one at equal cost."""
        return "baseline" if self.times is None or self.equal_steps == self.equal_cost else f"baseline at equal {equal}"


def why_no_baseline(config: PipelineConfig, dataset: Dataset) -> str | None:
    """Why there is no baseline: the student learns from no labels, and there are none to train or judge one on; None if there is."""
    own, split = config.distill.from_unlabelled, config.validation.split
    if own is None or not own.only:
        return None
    if not _num_objects(dataset, split):
        return f"split {split} has no labels to judge one on, and the student sees none"
    return None if _num_objects(dataset, "train") else "split train has no labels to train one on, and the student sees none"


def refuse_unlabeled(config: PipelineConfig, dataset: Dataset) -> None:
    """Refuse what cannot be learned or judged without labels, and thresholds that would have to be found on them.

    Raises:
        DataError: there is nothing to learn from.
        ConfigError: a limit on the drop of mAP; the first gate that needs labels or a baseline; pseudo-labels without a threshold.
    """
    if config.learns_from_labels:
        refuse_unlearnable(dataset)
    judged = config.validation.split
    split, how_many = ("train", "") if _num_objects(dataset, judged) else (judged, " (50 suffice)")
    remedy = f"label some images of split {split}{how_many}"
    limited = next((index for index, target in enumerate(config.targets) if target.max_map_drop is not None), None)
    if limited is not None and not _num_objects(dataset, judged):
        raise ConfigError(f"targets.{limited}.max_map_drop cannot be judged: split {split} has no labels; {remedy}, or leave it out")
    if why_no_baseline(config, dataset) is None:
        return
    for index, gate in enumerate(config.gates):
        if split == judged and (metrics.is_accuracy(gate.metric) or metrics.is_robust(gate.metric)):
            raise ConfigError(
                f"gates.{index}.metric: {gate.metric} cannot be judged: split {split} has no labels; {remedy}, or leave it out"
            )
        if gate.other == "baseline" or gate.metric in ("speedup_over_baseline", *metrics.GAINS, *metrics.MASK_GAINS):
            raise ConfigError(f"gates.{index}: there is no baseline where split {split} has no labels; {remedy}, or leave it out")
    own = config.distill.from_unlabelled
    if split == judged and own is not None and own.pseudo is not None and own.pseudo.threshold == "auto":
        problem = f"auto chooses a score on the labels of split {split}, which has none"
        raise ConfigError(f"distill.unlabelled.pseudo.threshold: {problem}; {remedy}, or set a number, such as 0.5")


def refuse_unlearnable(dataset: Dataset) -> None:
    """Refuse data without any label that a network could be trained on.

    Raises:
        DataError: split train has none.
    """
    if not _num_objects(dataset, "train"):
        remedy = "label some, or train only a student, with distill.unlabelled.only and teacher.weights"
        raise DataError(f"train: {rules.NO_BOX}; {remedy}")


def _num_objects(dataset: Dataset, split: str) -> int:
    found = dataset.facts.splits.get(split)
    return 0 if found is None else found.num_boxes
