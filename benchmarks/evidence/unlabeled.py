"""What are images without labels worth? Blood cells, nuclei and digits, each with few labeled images and many that have none.

    python benchmarks/evidence/unlabeled.py                     print what has been measured, and the verdict once all is
    python benchmarks/evidence/unlabeled.py plan                list the missing trainings in their order
    python benchmarks/evidence/unlabeled.py page                write what run.py page puts into docs/evidence.md
    python benchmarks/evidence/unlabeled.py run [--study NAME ...] [--role NAME ...] [--seed N ...] [--units N]

A study is a pipeline file in benchmarks/evidence/unlabeled/. Teacher and student have the labels of the same images. At each seed (of
blood cells: each fold) these networks are trained: the teacher; a baseline; the student distilled on labeled images only; students that
also learn from the others by features, by pseudo-labels, by both, and with the averaged student labeling in the second half; and the
ceiling, a baseline that has all labels. Three more arms are tried at the first seed: with the teacher's head as dense labels, and with
two teachers that learn from the unlabeled images first, one from its own labels and one from those of the teacher without. Such an arm
goes on to the other seeds if it is the best of all on split val there. Blood cells also have a student with photographs of something
else, to see what harm they do. The digits' seeds have the same labeled images, so one teacher serves them all.

One teacher of each was looked at before, on val: joining several views of an image raises the mAP of what it finds from 0.462 to 0.509
(blood cells) and from 0.682 to 0.736 (digits).

Each training appends one row to <study>.jsonl and is never repeated; an interrupted one resumes. They come in an order that tells early
whether the method works: first "both" and what it is compared with, at the first seed of each study, which takes an hour and a half;
then the first seed's other arms; then, at the other seeds, what the verdict needs, and the rest. `plan` prints the order. Settings and
the arm that the verdict is about are chosen on val; split test is read once, when a training has ended. By the measured time of a step
all of it takes some twenty hours of one core, and what comes before the rest thirteen to fifteen: pin it with OMP_NUM_THREADS=1
taskset -c 1 ... Only one process may train at a time.

The ceiling has as many epochs as the student, but at most four times the student's steps: 2,050 digits for 320 epochs would take longer
than everything else.

The verdict, on split test: in each study the arm gains at least 2 points over its baseline, beyond the 95% interval of Student's t over
the seeds, and 1.5 over distillation on labeled images only; in two studies it beats the teacher that had only the labeled images; in
one it goes half of the way from the baseline to the ceiling.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from imagenet_start import fetch_imagenet_start
from run import RUNS, commit
from turns import alone
from unlabeled_data import prepared
from unlabeled_page import show, write
from unlabeled_units import (
    BASELINE,
    BETTER,
    CEILING,
    CEILING_STEPS,
    FOREIGN,
    LABELED,
    ROLES,
    SEEDS,
    TEACHER,
    UnlabeledUnit,
    better,
    losses_of,
    missing,
    rows_file,
    section,
    teacher_seed,
)

from deploy.errors import Diverged
from pipeline.config import PipelineConfig
from pipeline.store.store import Store
from stages.artifacts import Checkpoint, Dataset, PseudoLabels
from stages.collect import collect
from stages.config import DataConfig, DistillConfig, SelfTrainingConfig, StudentConfig, UnlabelledConfig
from stages.datasets.unlabeled.pool import listed
from stages.distill import distill
from stages.label import label
from stages.measurement.torch_accuracy import evaluate
from stages.prepare import prepare
from stages.train import train_baseline, train_teacher
from stages.training.checkpoint import load_detector


def measure(unit: UnlabeledUnit) -> dict[str, Any]:
    """Train one network, with what it needs, and judge it on both splits; its row."""
    config, store = unit.config, Store(RUNS, f"unlabeled-{unit.study}", say=print)
    asked = prepared(unit, store)
    dataset = store.run(prepare, asked.labeled)
    began = time.monotonic()
    checkpoint, labels = trained(unit, config, store, asked, dataset)
    scratch = RUNS / "unlabeled" / unit.digest / "test"
    scratch.mkdir(parents=True, exist_ok=True)
    tested = evaluate(scratch, load_detector(checkpoint), dataset, "test", config.export.decisions)
    judged = {"val": checkpoint.facts.accuracy, "test": tested}  # val was judged when the training ended
    figures = {split: {"map": one.map, "map_50": one.map_50, "num_images": one.num_images} for split, one in judged.items()}
    found = {"labeled": dataset.facts.splits["train"].num_images, "minutes": round((time.monotonic() - began) / 60, 1)}
    if labels is not None:
        found["labels"] = labels.facts.model_dump(mode="json", exclude={"split", "expected"})
    return {"study": unit.study, "role": unit.role, "seed": unit.seed, **figures, **found, "commit": commit(), "digest": unit.digest}


def ceiling(config: PipelineConfig, labeled: int, every: int) -> StudentConfig:
    """The student's network and training for `every` image, of which the student has labels of `labeled`."""
    train = config.student.train
    most = CEILING_STEPS * train.num_steps(labeled) // (every // train.batch_size)
    return config.student.model_copy(update={"train": train.model_copy(update={"epochs": min(train.epochs, most)})})


def trained(
    unit: UnlabeledUnit, config: PipelineConfig, store: Store, asked: DataConfig, dataset: Dataset
) -> tuple[Checkpoint, PseudoLabels | None]:
    """The network of a role, and what it learned of images without labels; a teacher that another role has trained is reused."""
    given, decisions = (unit.seed, config.device, "val", dataset), config.export.decisions
    if unit.role == BASELINE:
        return store.at(unit.role).run(train_baseline, config.student, *given, decisions), None
    if unit.role == CEILING:
        every = dataset.facts.splits["train"].num_images
        longer = ceiling(config, every - len(listed([Path(one) for one in asked.unlabelled_folders])), every)
        return store.at(unit.role).run(train_baseline, longer, *given, decisions), None
    pool = store.run(collect, asked, dataset)
    teaching = teacher_seed(unit.study, unit.seed), *given[1:]
    teacher = store.at(TEACHER).run(train_teacher, config.teacher, *teaching, decisions, None)
    if (name := better(unit.role)) is not None:
        chosen = SelfTrainingConfig.model_validate(BETTER[name])
        more = config.teacher.model_copy(update={"unlabelled": chosen})
        first = None
        if chosen.labels == "first":
            first = store.at(TEACHER).run(label, chosen.rule, config.device, "val", dataset, pool, teacher, decisions)
        teacher = store.at(name).run(train_teacher, more, *teaching, decisions, pool, None, first)
    if unit.role == TEACHER or unit.role in BETTER:
        return teacher, None
    if unit.role == LABELED:
        return store.at(unit.role).run(distill, config.distill, config.student, *given, teacher, decisions, None), None
    own = UnlabelledConfig.model_validate(section(unit.role))
    labels = store.at(unit.role).run(label, own.rule, config.device, "val", dataset, pool, teacher, decisions)
    plain = config.distill.model_copy(update={"losses": losses_of(unit.role, config)})
    taught = DistillConfig.model_validate({**plain.model_dump(exclude={"unlabelled"}), "unlabelled": own})
    return store.at(unit.role).run(distill, taught, config.student, *given, teacher, decisions, labels), labels


def work(args: argparse.Namespace) -> None:
    """Train the missing networks, at most `--units` of them.

    A student that diverges, or a better teacher, is reported and left out; the next call tries again.

    Raises:
        Diverged: the teacher of a study did.
    """
    fetch_imagenet_start()
    done, lost = 0, set[UnlabeledUnit]()
    while done != args.units and (unit := next((one for one in missing(args) if one not in lost), None)) is not None:
        try:
            row = measure(unit)
        except Diverged as error:
            if unit.role == TEACHER:
                raise
            print(f"{unit.study}, {unit.role}, seed {unit.seed}: {error}", flush=True)
            lost.add(unit)
            continue
        with rows_file(unit.study).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        done += 1


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("show", "plan", "run", "page"), default="show")
    parser.add_argument("--study", nargs="+", default=[], choices=[*SEEDS])
    parser.add_argument("--role", nargs="+", default=[], choices=[*ROLES, FOREIGN])
    parser.add_argument("--seed", nargs="+", type=int, default=[])
    parser.add_argument("--units", type=int, default=-1, help="stop after N trainings (default: no limit)")
    args = parser.parse_args()
    if args.action == "show":
        show()
        return
    if args.action == "page":
        write()
        return
    if args.action == "plan":
        print("\n".join(f"{unit.study} {unit.seed} {unit.role}" for unit in missing(args)))
        return
    with alone(RUNS):
        work(args)


if __name__ == "__main__":
    main()
