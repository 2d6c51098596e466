"""Comparisons without training: a made-up result, and the command with stages that only count.

Run as a script, it is `edgedistill` with trainings that resume like real ones, and that can be held.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import artifact_samples
import numpy as np

from deploy.contract import Ratio
from deploy.errors import Diverged
from pipeline import cli, flow
from pipeline.arena import opening, trainings
from pipeline.commands import compare
from pipeline.config import PipelineConfig
from pipeline.results.contest import Contest, Entrant, StepCost, Tried
from stages.artifacts import Checkpoint, Dataset, ImagePool, PseudoLabels, StepMemory, StepTimes
from stages.config import DataConfig, DetectorConfig, DistillConfig, ExportConfig, StudentConfig, TeacherConfig, UnlabelledConfig
from stages.facts import StepMemoryFacts, write_facts
from stages.hold_out import TUNING
from stages.stage import stage
from stages.unlabeled_facts import PoolFacts, PseudoFacts

CONFIG = """\
name: made-up
data: {dataset: digits}
teacher: {detector: {name: fcos, backbone: resnet10, width: 8}}
student: {detector: {name: fcos, backbone: resnet10, width: 8}}
distill: {losses: [{name: attention, weight: 1.0}]}
targets: [{name: cpu, runtime: ort}]
compare: {methods: [attention, pearson], trials: 2, seeds: 2}
"""
STEPS, HOLD = 4, "hold"
"""Steps of a training, and the file in the store that stops every training after its second step as long as it exists."""
LABELED = "labeled.txt"
"""The file in the store in which each labeling leaves its teacher's mAP."""
MADE = "made.txt"
"""The file in the store in which each training that has ended leaves its folder's name."""
DIVERGES = "hint"
"""A loss that cannot be trained."""
BROKEN: set[str] = set()
"""Stages that diverge."""


@stage(version=1)
def prepare(out: Path, config: DataConfig) -> Dataset:
    """Images of colored cells."""
    return artifact_samples.dataset(out)


@stage(version=1)
def hold_out(out: Path, dataset: Dataset, share: float, seed: int) -> Dataset:
    """The same images, with a split more."""
    facts = dataset.facts
    write_facts(out, facts.model_copy(update={"splits": {**facts.splits, TUNING: facts.splits["val"]}}))
    return Dataset(out)


@stage(version=1)
def collect(out: Path, config: DataConfig, dataset: Dataset) -> ImagePool:
    """Nine images that nobody looks at."""
    write_facts(out, PoolFacts(num_images=9, sha256="0"))
    return ImagePool(out)


@stage(version=1)
def label(
    out: Path,
    config: UnlabelledConfig,
    device: str,
    split: str,
    dataset: Dataset,
    pool: ImagePool,
    teacher: Checkpoint,
    export: ExportConfig,
) -> PseudoLabels:
    """Labels that are as good as their teacher."""
    with (out.parent / LABELED).open("a", encoding="utf-8") as file:
        file.write(f"{teacher.facts.accuracy.map} {'features' if config.pseudo is None else 'pseudo'}\n")
    write_facts(out, PseudoFacts(split=split, num_images=9, empty=0, classes={}))
    return PseudoLabels(out)


@stage(version=1, resumable=True)
def train_teacher(
    out: Path,
    config: TeacherConfig,
    seed: int,
    device: str,
    split: str,
    dataset: Dataset,
    export: ExportConfig,
    pool: ImagePool | None = None,
    classes: Mapping[str, str] | None = None,
    labels: PseudoLabels | None = None,
) -> Checkpoint:
    """The best network."""
    _check("train_teacher")
    return _trained(out, 0.9, "teacher")


@stage(version=1)
def untrained_teacher(out: Path, config: DetectorConfig, seed: int, split: str, dataset: Dataset, export: ExportConfig) -> Checkpoint:
    """The worst one."""
    return _trained(out, 0.01, "random")


@stage(version=1, resumable=True)
def train_baseline(
    out: Path, config: StudentConfig, seed: int, device: str, split: str, dataset: Dataset, export: ExportConfig
) -> Checkpoint:
    """A network that gets better with its epochs."""
    _check("train_baseline")
    return _trained(out, 0.4 + 0.002 * config.train.epochs, f"{config.train.epochs} {seed}", config.train.epochs)


@stage(version=1, resumable=True)
def distill(
    out: Path,
    config: DistillConfig,
    student: StudentConfig,
    seed: int,
    device: str,
    split: str,
    dataset: Dataset,
    teacher: Checkpoint,
    export: ExportConfig,
    labels: PseudoLabels | None = None,
) -> Checkpoint:
    """A network that is better with a good teacher, with a share near 0.5, with `pearson`, and with images without labels."""
    names = [loss.name for loss in config.losses]
    if DIVERGES in names:
        raise Diverged(f"distill: {DIVERGES} is nan at step 3")
    knows = (teacher.facts.accuracy.map or 0.0) / 0.9
    gain = knows * (0.1 + 0.02 * ("pearson" in names) + 0.05 * (labels is not None) - 0.05 * (config.share - 0.5) ** 2)
    noise = f"{names} {config.share} {seed} {split}{'' if labels is None else ' unlabelled'}"
    return _trained(out, 0.43 + gain, noise, student.train.epochs)


@stage(version=1)
def time_steps(
    out: Path, config: DistillConfig, student: StudentConfig, teacher: DetectorConfig, device: str, dataset: Dataset
) -> StepTimes:
    """A distilled step takes 1.5 times as long, with `pearson` 1.25 times."""
    return artifact_samples.step_times(out, 1.25 if config.losses[0].name == "pearson" else 1.5)


@stage(version=1)
def weigh_steps(
    out: Path, config: DistillConfig, student: StudentConfig, teacher: DetectorConfig, device: str, dataset: Dataset
) -> StepMemory:
    """A distilled step needs 2 MB more."""
    write_facts(out, StepMemoryFacts(plain_bytes=5_000_000, distilled_bytes=7_000_000, extra_parameters=1200, device="cpu"))
    return StepMemory(out)


def _check(name: str) -> None:
    if name in BROKEN:
        raise Diverged(f"{name}: loss is nan at step 3")


def _trained(out: Path, mean: float, luck: str, epochs: int = 12) -> Checkpoint:
    state = out / "step.txt"
    done = int(state.read_text()) if state.exists() else 0
    for step in range(done, STEPS):
        while step >= STEPS // 2 and (out.parent / HOLD).exists():
            time.sleep(0.02)
        state.write_text(str(step + 1))
    with (out.parent / MADE).open("a", encoding="utf-8") as file:
        file.write(f"{out.name}\n")
    checkpoint = artifact_samples.checkpoint(out)
    moved = int(hashlib.sha256(luck.encode()).hexdigest()[:4], 16) / 2**16 - 0.5
    reached = round(mean + 0.01 * moved, 6)
    figures = artifact_samples.accuracy(map=reached, map_large=reached + 0.02)
    write_facts(out, checkpoint.facts.model_copy(update={"accuracy": figures, "epochs": epochs}))
    return checkpoint


def _named(config: PipelineConfig) -> list[str]:
    return [*(config.compare.methods or ())]


@contextmanager
def counting() -> Iterator[None]:
    """Let comparisons run these stages instead of those that train; every loss serves the pair."""
    replaced: Sequence[tuple[ModuleType, Callable[..., object]]] = (
        *((flow, one) for one in (prepare, collect, label)),
        *((trainings, one) for one in (hold_out, train_teacher, untrained_teacher, train_baseline, distill, time_steps, weigh_steps)),
    )
    changes: list[Any] = [mock.patch.object(module, one.__name__, one) for module, one in replaced]
    changes += [
        mock.patch.object(opening, "methods_of", _named),
        mock.patch.object(compare, "before_trainings", return_value={}),
        mock.patch("pipeline.arena.sharing.POLL_SECONDS", 0.05),
    ]
    for change in changes:
        change.start()
    try:
        yield
    finally:
        for change in changes:
            change.stop()


def entrant(name: str, maps: tuple[float, ...], role: str = "method", **changes: object) -> Entrant:
    """A network with these figures; the last of three classes is in no image."""
    mean = float(np.mean(maps))
    sizes = {"map_small": None, "map_medium": mean - 0.1, "map_large": mean + 0.1}
    found = {
        "name": name,
        "role": role,
        "epochs": 320,
        "maps": maps,
        "masks": None,
        "sizes": sizes,
        "classes": {"cat": mean - 0.05, "dog": mean + 0.05, "owl": None},
        "distill": {"share": 0.5, "losses": [{"name": part.strip(), "weight": "auto"} for part in name.split("+")]},
        "trials": (Tried(0.7, mean - 0.02), Tried(0.5, mean), Tried(0.875, None)),
        "cost": StepCost(0.1, Ratio(ratio=1.4, low=1.38, high=1.42), 12_300_000, 40_960),
    }
    if role != "method":
        found |= {"trials": (), "cost": None}
    return Entrant(**(found | changes))  # type: ignore[arg-type]


def contest(num_methods: int = 3, seeds: int = 5, gain: float = 0.05, **changes: object) -> Contest:
    """Methods, the first of them best, and baselines at every seed."""
    names: tuple[str, ...] = ("attention + non_local", "attention", "non_local", "pearson", "channel_wise", "masked_generative")
    names += ("focal_global", "feature_richness", "general_instance", "attention_transfer", "decoupled", "overhaul")
    names += ("localization", "cross_head")
    random = np.random.default_rng(0)
    luck = random.normal(0, 0.01, seeds)

    def maps(mean: float) -> tuple[float, ...]:
        return tuple(float(value) for value in np.round(mean + luck + random.normal(0, 0.003, seeds), 4))

    methods = tuple(entrant(name, maps(0.5 + gain - 0.006 * index)) for index, name in enumerate(names[:num_methods]))
    found = {
        "name": "digits",
        "split": "test",
        "num_images": 600,
        "seeds": tuple(range(seeds)),
        "tuning": (1000, "val"),
        "teacher": 0.71,
        "random_teacher": 0.001,
        "baseline": entrant("baseline", maps(0.48), "baseline", distill=None),
        "equal_cost": entrant("baseline, equal cost", maps(0.5), "baseline", epochs=470, distill=None),
        "methods": methods,
        "control": entrant("random teacher", maps(0.47), "control"),
        "control_method": names[0],
        "left_out": {},
    }
    return Contest(**(found | changes))  # type: ignore[arg-type]


if __name__ == "__main__":
    with counting():
        sys.exit(cli.main())
