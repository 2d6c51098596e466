"""Trainings of a student, one per variant and seed: each is found in the store by its hash, or made there."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deploy.errors import ArtifactError, DataError, Diverged
from pipeline.arena.variants import Variant
from pipeline.baselines import refuse_unlearnable
from pipeline.config import PipelineConfig
from pipeline.flow import collected, first_labels, labeled, prepared
from pipeline.store import keys
from pipeline.store.files import replace_json
from pipeline.store.store import Mode, Store
from pipeline.terminal.answer import silent
from stages.artifacts import Checkpoint, Dataset, ImagePool, PseudoLabels, StepMemory, StepTimes
from stages.config import DistillConfig, TargetConfig
from stages.distill import distill
from stages.finetune_int8 import finetune_int8
from stages.hold_out import TUNING, hold_out
from stages.time_steps import step_options, time_steps
from stages.train import train_baseline, train_teacher, untrained_teacher
from stages.training.batches.shared_folder import shared_in
from stages.weigh_steps import weigh_steps

HELD_OUT = 0.2
"""Share of the training images that trials are judged on if no split is named for them."""

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A stage and its arguments."""


@dataclass(frozen=True)
class Arena:
    """A pair of networks, their images, and the store with what was trained; `found` is what many trainings have in common."""

    config: PipelineConfig
    store: Store
    dataset: Dataset
    found: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: PipelineConfig, store: Store) -> "Arena":
        """Prepare the images, or find them.

        Raises:
            DataError: a split that networks are trained or judged on has no objects.
        """
        dataset = prepared(config, store)
        refuse_unlearnable(dataset)
        for split in filter(None, (config.validation.split, config.compare.tuning_split)):
            if split in dataset.facts.splits and not dataset.facts.splits[split].num_boxes:
                raise _undefined(split)
        return cls(config, store, dataset)

    def looking(self, mode: Mode) -> "Arena":
        """The same, with a store in a different mode."""
        return replace(self, store=replace(self.store, mode=mode, records=[], say=silent), found={})

    def teacher(self, *, random: bool = False) -> Checkpoint:
        """One teacher, trained with the file's own seed, for every seed of the student; or its network with random weights."""
        config, split, decisions = self.config, self.config.validation.split, self.config.export.decisions
        trained: Checkpoint
        if random:
            trained = self._once("random", untrained_teacher, config.teacher.detector, config.seed, split, self.dataset, decisions)
        else:
            own = self._pool if config.teacher.from_unlabelled is not None else None
            if "first labels" not in self.found:
                with indispensable():
                    self.found["first labels"] = first_labels(config, self.store, self.dataset, own)
            large, first = config.teacher if own is not None else config.teacher.labeled, self.found["first labels"]
            given = large, config.seed, config.device, split, self.dataset, decisions, own, config.distill.taught, first
            trained = self._once("teacher", train_teacher, *given)
        return trained

    def train(self, variant: Variant, seed: int) -> Checkpoint:
        """The student of a variant at a seed; all variants have the same initialization and the same images in the same order.

        Raises:
            Diverged: a loss was not finite, now or when it was tried before.
        """
        return self._train(self.call(variant, seed), f"{variant.name}, seed {seed}")

    def tuned(self, target: TargetConfig, variant: Variant, seed: int, student: Checkpoint) -> Checkpoint:
        """A variant's student trained for a target's int8."""
        config, how = self.config, target.finetuning(variant.student.train)
        assert how is not None
        assert variant.distill is not None
        given = how, variant.distill.labeled, seed, config.device, config.validation.split, self.dataset
        return self.store.at(f"{target.name}, seed {seed}").run(finetune_int8, *given, student, self.teacher(), config.export)

    def try_out(self, variant: Variant, seed: int, label: str) -> Checkpoint:
        """As `train`, on and judged on the images for tuning."""
        return self._train(self.call(variant, seed, trial=True), f"{variant.name}, {label}")

    def call(self, variant: Variant, seed: int, *, trial: bool = False) -> Call:
        """The stage that trains a variant, and its arguments; the teacher is trained if it must be."""
        config = self.config
        data, split = self.tuning_images() if trial else (self.dataset, config.validation.split)
        given = seed, config.device, split, data
        if variant.distill is None:
            return train_baseline, (variant.student, *given, config.export.decisions)
        teacher = self.teacher(random=variant.teacher == "random")
        labels = self._labels(teacher, variant.distill) if variant.distill.from_unlabelled is not None else None
        return distill, (variant.distill, variant.student, *given, teacher, config.export.decisions, labels)

    @property
    def _pool(self) -> ImagePool | None:
        """The images without labels; None if the configuration uses none."""
        if "pool" not in self.found:
            self.found["pool"] = collected(self.config, self.store, self.dataset)
        pool: ImagePool | None = self.found["pool"]
        return pool

    @property
    def num_unlabelled(self) -> int:
        """How many images without labels can be used."""
        return 0 if self._pool is None else self._pool.facts.num_images

    def _labels(self, teacher: Checkpoint, taught: DistillConfig) -> PseudoLabels | None:
        """What the teacher finds in them: all students of the trained one share it, whatever part of it they learn."""
        asked = self.config.distill if teacher == self.found.get("teacher") else taught
        name = f"labels of {teacher.root.name}"
        if name not in self.found:
            self.found[name] = labeled(self.config, self.store, self.dataset, self._pool, teacher, asked)
        labels: PseudoLabels | None = self.found[name]
        return labels

    def tuning_images(self) -> tuple[Dataset, str]:
        """What trials are trained on, and the split that they are judged on."""
        if (named := self.config.compare.tuning_split) is not None:
            return self.dataset, named
        return self._once("held out", hold_out, self.dataset, HELD_OUT, self.config.seed), TUNING

    def times(self, variant: Variant) -> StepTimes:
        """How long the variant's step takes next to the plain one, measured once: every process reads the same figure."""
        return self.store.at(variant.name).run(time_steps, *self._step(variant))

    def memory(self, variant: Variant) -> StepMemory:
        """How much memory the variant's step takes, measured once."""
        return self.store.at(variant.name).run(weigh_steps, *self._step(variant))

    def _step(self, variant: Variant) -> tuple[Any, ...]:
        assert variant.distill is not None
        options = step_options(variant.distill, variant.student, self.config.teacher)
        return *options, self.config.device, self.dataset

    def _once(self, name: str, stage: Callable[..., Any], *arguments: Any) -> Any:
        """What many trainings need, looked up in the store only once.

        Raises:
            ArtifactError: it diverged, and with it everything.
        """
        if name not in self.found:
            with indispensable():
                self.found[name] = self.store.run(stage, *arguments)
        return self.found[name]

    def _train(self, call: Call, label: str) -> Checkpoint:
        stage, arguments = call
        note = self.note(call)
        if (why := _why(note)) is not None:
            raise Diverged(why)
        try:
            with self._shared(call):
                trained: Checkpoint = self.store.at(label).run(stage, *arguments)
        except Diverged as error:
            replace_json(note, {"format": 1, "training": label, "why": str(error)})
            raise
        return trained

    def _shared(self, call: Call) -> AbstractContextManager[None]:
        """Inside, all students of a teacher that see the same images, those of a seed, compute only once what it makes of them."""
        stage, arguments = call
        if stage is not distill or self.store.mode.dry:
            return nullcontext()
        _, _, seed, _, _, dataset, teacher, *_ = arguments
        name = f"{teacher.root.name}-{dataset.root.name}-{seed}"
        return shared_in(self._teacher_outputs, name, round(self.config.compare.teacher_gb * 1e9))

    @property
    def _teacher_outputs(self) -> Path:
        return self.store.root / self.config.name / "teacher-outputs"

    def tidy(self) -> None:
        """Delete what only trainings needed."""
        shutil.rmtree(self._teacher_outputs, ignore_errors=True)

    def path(self, call: Call) -> Path:
        """The folder of a training in the store."""
        stage, arguments = call
        return self.store.folder / keys.key_of(keys.parts_of(stage, *arguments))

    def note(self, call: Call) -> Path:
        """Where it is noted that a training diverged, so that nobody repeats it."""
        return self.store.root / self.config.name / "diverged" / f"{self.path(call).name}.json"


@contextmanager
def indispensable() -> Iterator[None]:
    """Without this training there is nothing to compare: if it diverges, everything ends.

    Raises:
        ArtifactError: it diverged.
    """
    try:
        yield
    except Diverged as error:
        raise ArtifactError(str(error)) from error


def _why(note: Path) -> str | None:
    try:
        return f"{json.loads(note.read_text(encoding='utf-8'))['why']} (delete {note} to try again)"
    except FileNotFoundError:
        return None


def judged(trained: Checkpoint) -> float:
    """A network's mAP.

    Raises:
        DataError: it is undefined.
    """
    accuracy = trained.facts.accuracy
    if accuracy.map is None:
        raise _undefined(accuracy.split)
    return accuracy.map


def _undefined(split: str) -> DataError:
    return DataError(f"mAP is undefined on split {split}: it has no objects; choose a different one with --set validation.split=...")
