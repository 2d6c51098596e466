"""What distillation gained: the student against the same network trained without the teacher."""

from deploy.contract import Frozen, Ratio


class GainOver(Frozen):
    """The student's lead in mAP over a baseline that was trained for `epochs` and reaches `map`.

    `low` and `high` are its 95% interval, from images drawn with replacement; null if too few images have objects to tell.
    """

    epochs: int
    map: float | None
    gain: float | None
    low: float | None = None
    high: float | None = None

    @property
    def is_told(self) -> bool:
        """Whether the images suffice to tell the gain from 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


class Agreement(Frozen):
    """mAP of the student's detections if the teacher's `num_boxes` accepted ones were the ground truth: that is not accuracy."""

    map: float | None
    map_50: float | None
    num_boxes: int


class DistillationGain(Frozen):
    """The gain over the baseline with as many steps as the student, and over the one that was trained for as long.

    Each is null if the run does without that baseline; `left_out` is the reason if the run meant to have it. If the numbers of epochs
    are the same, both are one network. `step_ratio` is how many times as long a distilled step takes, null if it was not measured.
    The teacher's own training is not part of the cost. `agreement` takes the place of gains where nothing has labels.
    """

    split: str
    num_images: int
    teacher_map: float | None
    student_map: float | None
    epochs: int
    equal_steps: GainOver | None
    equal_cost: GainOver | None
    step_ratio: Ratio | None
    left_out: str | None = None
    agreement: Agreement | None = None

    @property
    def is_one_network(self) -> bool:
        """Whether one baseline serves as both."""
        return self.equal_steps is not None and self.equal_cost is not None and self.equal_steps.epochs == self.equal_cost.epochs

    def ordered(self) -> list[tuple[str, GainOver]]:
        """Each gain with what is equal, "cost", "steps" or "steps and cost"; the smaller gain first."""
        if self.is_one_network and self.equal_steps is not None:
            return [("steps and cost", self.equal_steps)]
        found = [(name, over) for name, over in (("cost", self.equal_cost), ("steps", self.equal_steps)) if over is not None]
        return sorted(found, key=lambda one: float("-inf") if one[1].gain is None else one[1].gain)
