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
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from imagenet_start import fetch_imagenet_start
from page import OPENING, SECTIONS, about, in_points, table
from run import RUNS, STUDIES, commit, hashed
from turns import alone

from deploy.errors import Diverged
from deploy.machine import known_files
from pipeline.config import PipelineConfig, load
from pipeline.results.gains import paired_gain
from pipeline.results.table import grid, number
from pipeline.store.store import Store
from stages.artifacts import Checkpoint, Dataset, PseudoLabels, read_json
from stages.collect import collect
from stages.config import DataConfig, DistillConfig, LossConfig, SelfTrainingConfig, StudentConfig, UnlabelledConfig
from stages.datasets import Source
from stages.datasets.splits.arrange import held_out
from stages.datasets.unlabeled.pool import listed
from stages.distill import distill
from stages.label import label
from stages.measurement.torch_accuracy import evaluate
from stages.prepare import prepare
from stages.train import train_baseline, train_teacher
from stages.training.checkpoint import load_detector

FOLDER = STUDIES / "unlabeled"
TEACHER, BASELINE, LABELED, CEILING = "teacher", "baseline", "labeled only", "ceiling"
PSEUDO = {"box_precision": 0.2}
"""Boxes are learned if a fifth of their class are exact. On val, at most 30% of a teacher's platelets are, at any score: they are 8 px wide
in the network's input. With the default of 60%, no box of the rarest class would be learned; other cells and digits are not affected."""
BETTER: Mapping[str, dict[str, Any]] = {
    "teacher, self-trained": {"pseudo": PSEUDO},
    "teacher, taught by the first": {"labels": "first", "pseudo": PSEUDO},
}
"""The section teacher.unlabelled of each teacher that learns from the unlabeled images."""
DENSE = LossConfig.model_validate({"name": "dense_labels", "weight": 1.0})
ARMS: Mapping[str, dict[str, Any]] = {
    "features": {"pseudo": None},
    "pseudo-labels": {"features": False, "pseudo": PSEUDO},
    "both": {"pseudo": PSEUDO},
    "both, refined": {"refine": 0.5, "pseudo": PSEUDO},
    "both, dense labels": {"pseudo": PSEUDO},
    **{f"both, {name}": {"pseudo": PSEUDO} for name in BETTER},
}
"""The section distill.unlabelled of each student that the verdict may be about."""
FOREIGN = "both, foreign images"
"""Blood cells with the photographs of the digits as images without labels: what harm they do."""
FIRST = (TEACHER, BASELINE, LABELED, "both")
"""What tells whether images without labels help at all."""
TRIED = ("both, dense labels", *(f"both, {name}" for name in BETTER))
"""Arms that go on to other seeds only if one of them is the best at the first."""
ALWAYS = (*FIRST, CEILING, *(arm for arm in ARMS if arm not in (*FIRST, *TRIED)))
ROLES = (*ALWAYS, *BETTER, *TRIED)
EXTRA = {"bccd": (FOREIGN,)}
ONE_TEACHER = ("digits",)
"""Studies whose seeds have the same labeled images."""
CEILING_STEPS = 4
"""The ceiling's steps at most, as a multiple of the student's."""
SEEDS = {"bccd": 5, "nuclei": 3, "digits": 5}
UNLABELED_DIGITS = 2000
TESTED, LABELED_NUCLEI = 128, 64

COLUMNS = ["network", "val", "test", f"points over the {BASELINE}"]

Item = tuple[Path, Mapping[str, Any], Sequence[Mapping[str, Any]]]
"""An image's file, its COCO row and its annotations."""


@dataclass(frozen=True)
class UnlabeledUnit:
    """A network to train."""

    study: str
    role: str
    seed: int

    @property
    def config(self) -> PipelineConfig:
        """The study's file."""
        return _loaded(FOLDER / f"{self.study}.yaml")

    @property
    def digest(self) -> str:
        """Hash of everything that its figures depend on."""
        config = self.config
        sections = [hashed(one) for one in (config.data, config.teacher, config.student, config.distill)]
        chosen = [
            section(self.role),
            BETTER.get(better(self.role) or ""),
            [one.model_dump(mode="json") for one in losses_of(self.role, config)],
        ]
        parts = [sections, self.role, self.seed, *chosen, UNLABELED_DIGITS, TESTED, LABELED_NUCLEI, CEILING_STEPS]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


_loaded = cache(load)


def section(role: str) -> dict[str, Any] | None:
    """The section distill.unlabelled of a role; None without one."""
    return ARMS["both"] if role == FOREIGN else ARMS.get(role)


def better(role: str) -> str | None:
    """The better teacher that a role is, or learns from; None if it has none."""
    return next((name for name in BETTER if role.endswith(name)), None)


def losses_of(role: str, config: PipelineConfig) -> tuple[LossConfig, ...]:
    """The losses of a role."""
    return (*config.distill.losses, DENSE) if role.endswith("dense labels") else config.distill.losses


def teacher_seed(study: str, seed: int) -> int:
    """The seed of a seed's teachers."""
    return 0 if study in ONE_TEACHER else seed


def roles(study: str) -> tuple[str, ...]:
    """The networks of a study at the first seed."""
    return *ROLES, *EXTRA.get(study, ())


def leading(study: str) -> str | None:
    """The arm that is the best on val at the first seed; None until all have been trained there."""
    found = {row["role"]: row["val"]["map"] for row in rows(study) if row["seed"] == 0}
    return None if any(arm not in found for arm in ARMS) else max(ARMS, key=lambda arm: found[arm])


def carried(study: str) -> tuple[str, ...]:
    """What other seeds need because of the arm that leads at the first: this arm, and its teacher if it has a better one."""
    best = leading(study)
    if best is None or best in FIRST:
        return ()
    own = better(best)
    return (*(() if own is None else (own,)), best)


def units() -> Iterator[UnlabeledUnit]:
    """Every network, what is told early first; which arms go on to other seeds is decided by the rows that there are."""
    for chosen in (FIRST, [role for role in ROLES if role not in FIRST]):
        for study in SEEDS:
            yield from (UnlabeledUnit(study, role, 0) for role in chosen)
    needed = {study: (*FIRST, CEILING, *carried(study)) for study in SEEDS}
    for only in (True, False):
        for study, count in SEEDS.items():
            for seed in range(1, count):
                every = needed[study] if only else [role for role in ALWAYS if role not in needed[study]]
                shared = (TEACHER, *BETTER) if teacher_seed(study, seed) != seed else ()
                yield from (UnlabeledUnit(study, role, seed) for role in every if role not in shared)
    for study, more in EXTRA.items():
        yield from (UnlabeledUnit(study, role, seed) for seed in range(SEEDS[study]) for role in more)


def rows(study: str) -> list[dict[str, Any]]:
    """The study's rows that were measured with its current configuration."""
    file = FOLDER / f"{study}.jsonl"
    every = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    return [row for row in every if row["digest"] == UnlabeledUnit(study, row["role"], row["seed"]).digest]


def items(dataset: Dataset, split: str) -> list[Item]:
    """A split's images with their annotations."""
    coco = read_json(dataset.annotations(split))
    own: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for one in coco["annotations"]:
        own[one["image_id"]].append(one)
    return [(dataset.images(split) / image["file_name"], image, own[image["id"]]) for image in coco["images"]]


def divided(unit: UnlabeledUnit, store: Store) -> tuple[Dataset, dict[str, list[Item]]]:
    """The data as it is, and its images: labeled, unlabeled, val and test."""
    config = unit.config.data
    whole = store.run(prepare, config)
    val = items(whole, "val")
    if unit.study == "digits":
        train = items(whole, "train")
        more = DataConfig.model_validate({**config.model_dump(), "train_images": len(train) + UNLABELED_DIGITS})
        # of the same seed: with another one, digits of val and test would be among them
        other = items(store.at("unlabeled").run(prepare, more), "train")[len(train) :]
        return whole, {"train": train, "unlabeled": other, "val": val, "test": items(whole, "test")}
    if unit.study == "bccd":
        pool = items(whole, "train") + items(whole, "test")
        pool.sort(key=lambda item: hashlib.sha256(item[0].name.encode()).hexdigest())
        parts = [pool[number::5] for number in range(5)]
        own, tested = unit.seed % 5, (unit.seed + 1) % 5
        rest = [one for number, part in enumerate(parts) if number not in (own, tested) for one in part]
        return whole, {"train": parts[own], "unlabeled": rest, "val": val, "test": parts[tested]}
    rest, test = _by_cluster(whole, items(whole, "train"), TESTED, seed=0)
    rest, train = _by_cluster(whole, rest, LABELED_NUCLEI, seed=unit.seed)
    return whole, {"train": train, "unlabeled": rest, "val": val, "test": test}


def _by_cluster(whole: Dataset, given: Sequence[Item], count: int, seed: int) -> tuple[list[Item], list[Item]]:
    """The others, and about `count` images held out; pictures that look alike stay together."""
    categories = read_json(whole.annotations("train"))["categories"]
    images = [{**row, "file_name": str(path)} for path, row, _ in given]
    coco = {"images": images, "annotations": [one for _, _, own in given for one in own], "categories": categories}
    with known_files.kept_in(RUNS / ".store" / ".files.json"):  # the images are compared once, not for each network
        _, held = held_out(Source(Path("/"), coco), count / len(given), seed, whole.facts.contract.preprocessing)
    chosen = {row["id"] for row in held.coco["images"]}
    return [one for one in given if one[1]["id"] not in chosen], [one for one in given if one[1]["id"] in chosen]


def prepared(unit: UnlabeledUnit, store: Store) -> DataConfig:
    """COCO's layout with the unit's splits, and the images without labels next to it; the ceiling has all of them in train."""
    whole, parts = divided(unit, store)
    seed = teacher_seed(unit.study, unit.seed)  # the same images: the same folder, so that what is made of them is found again
    root = RUNS / "unlabeled" / f"{unit.study}-{seed}{'-ceiling' if unit.role == CEILING else ''}"
    shutil.rmtree(root, ignore_errors=True)
    categories = read_json(whole.annotations("train"))["categories"]
    if unit.role == CEILING:
        parts["train"] = parts["train"] + parts["unlabeled"]
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val", "test"):
        _write(root, split, parts[split], categories)
    folder = root / ("foreign" if unit.role == FOREIGN else "unlabeled")  # the labeled images stay where they are, so teachers are reused
    folder.mkdir()
    other = foreign(store, len(parts["unlabeled"])) if unit.role == FOREIGN else parts["unlabeled"]
    for place, (path, _, _) in enumerate(other):
        (folder / f"{place:04}-{path.name}").symlink_to(path.resolve())
    given = {"dataset": "coco", "root": str(root), "preprocessing": whole.facts.contract.preprocessing}
    return DataConfig.model_validate({**given, "unlabelled": str(folder)})


def foreign(store: Store, count: int) -> list[Item]:
    """Photographs with digits."""
    config = load(FOLDER / "digits.yaml").data
    return items(store.at("foreign").run(prepare, DataConfig.model_validate({**config.model_dump(), "train_images": count})), "train")


def _write(root: Path, split: str, chosen: Sequence[Item], categories: Sequence[Mapping[str, Any]]) -> None:
    (root / "images" / split).mkdir(parents=True)
    made: dict[str, list[Mapping[str, Any]]] = {"images": [], "annotations": [], "categories": list(categories)}
    for key, (path, image, own) in enumerate(chosen, 1):
        name = f"{key:04}-{path.name}"
        (root / "images" / split / name).symlink_to(path.resolve())
        made["images"].append({**image, "id": key, "file_name": name})
        for one in own:
            made["annotations"].append({**one, "id": len(made["annotations"]) + 1, "image_id": key})
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(made), encoding="utf-8")


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
        with (FOLDER / f"{unit.study}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        done += 1


def missing(args: argparse.Namespace) -> Iterator[UnlabeledUnit]:
    """The wanted networks without a row, in their order."""
    measured = {row["digest"] for study in SEEDS for row in rows(study)}
    for unit in units():
        wanted = (not args.study or unit.study in args.study) and (not args.role or unit.role in args.role)
        if wanted and (not args.seed or unit.seed in args.seed) and unit.digest not in measured:
            yield unit


def maps(study: str, split: str) -> dict[str, list[float]]:
    """mAP seed by seed of the roles that have been trained at all seeds."""
    found = {(row["role"], row["seed"]): row[split]["map"] for row in rows(study)}
    shared = (TEACHER, *BETTER)
    wanted = {
        role: [(role, teacher_seed(study, seed) if role in shared else seed) for seed in range(SEEDS[study])] for role in roles(study)
    }
    return {role: [found[one] for one in places] for role, places in wanted.items() if all(one in found for one in places)}


def chosen(on_val: Mapping[str, Sequence[float]]) -> str:
    """Of the arms that have been trained at all seeds, the one with the highest mean on val."""
    return max((arm for arm in ARMS if arm in on_val), key=lambda arm: fmean(on_val[arm]))


def verdict(study: str, on_test: Mapping[str, Sequence[float]], arm: str) -> tuple[dict[str, bool], str]:
    """What the arm reaches, and a line on it."""
    over = {other: paired_gain(on_test[arm], on_test[other]) for other in (BASELINE, LABELED, TEACHER)}
    lead = fmean(on_test[CEILING]) - fmean(on_test[BASELINE])
    share = over[BASELINE].mean / lead if lead > 0 else 0.0
    low = over[BASELINE].low
    reached = {
        "gain": over[BASELINE].mean >= 0.02 and low is not None and low > 0 and over[LABELED].mean >= 0.015,
        "beats its teacher": over[TEACHER].mean > 0,
        "half of the way": share >= 0.5,
    }
    gains = ", ".join(f"{in_points(gain)} over {other}" for other, gain in over.items())
    return reached, f"{study}: {arm}, chosen on val: {gains}; {share:.0%} of the way to the ceiling"


def results(study: str) -> tuple[list[list[str]], str] | None:
    """A line per role that has been trained at all seeds, and one on the arm that val chose; None until the verdict can be reached."""
    on_val, on_test = maps(study, "val"), maps(study, "test")
    if leading(study) is None or any(role not in on_val for role in (*FIRST, CEILING, *carried(study))):
        return None
    lines = [
        [role, number(fmean(on_val[role])), number(fmean(values)), in_points(paired_gain(values, on_test[BASELINE]))]
        for role, values in on_test.items()
    ]
    return lines, verdict(study, on_test, chosen(on_val))[1]


def show() -> None:
    """The rows of the first seed on val, and for roles with all seeds, means and gains; the verdict once all that it needs is measured."""
    for study in SEEDS:
        print(f"\n{study}: {len(rows(study))} trainings are measured\n{grid(['at the first seed', 'val'], tried(study))}")
        if (found := results(study)) is not None:
            print(f"\n{grid(COLUMNS, found[0])}\n{'' if is_whole(study) else 'so far, '}{found[1]}")
    if all(is_whole(study) for study in SEEDS):
        print(f"\n{goal()}")


def is_whole(study: str) -> bool:
    """Whether every role that is trained at all seeds has been."""
    on_val = maps(study, "val")
    return results(study) is not None and all(role in on_val for role in ALWAYS)


def tried(study: str) -> list[list[str]]:
    """What each role reaches on val at the first seed."""
    first = {row["role"]: row["val"]["map"] for row in rows(study) if row["seed"] == 0}
    return [[role, number(first[role])] for role in roles(study) if role in first]


def goal() -> str:
    """Whether the goal is reached, once all is measured."""
    reached = [verdict(study, maps(study, "test"), chosen(maps(study, "val")))[0] for study in SEEDS]
    counts = {name: sum(one[name] for one in reached) for name in reached[0]}
    good = counts["gain"] == len(SEEDS) and counts["beats its teacher"] >= 2 and counts["half of the way"] >= 1
    return f"{'the goal is reached' if good else 'the goal is not reached'}: {counts}"


def section_of_page(notes: str) -> str:
    """The part of docs/evidence.md in Markdown: what was found, in words, then each study; what was tried once is folded up."""
    parts = ["## Images without labels", notes.strip()]
    for study in SEEDS:
        if (found := results(study)) is not None:
            parts += [f"**{study}**: {about(FOLDER / f'{study}.yaml')}", table(COLUMNS, found[0]), f"{found[1]}."]
            once = table(["network", "val"], tried(study))
            parts.append(f"<details>\n<summary>{study}: all networks at the first seed</summary>\n\n{once}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def write() -> None:
    """Write the part of the page."""
    SECTIONS.mkdir(exist_ok=True)
    (SECTIONS / OPENING).write_text(section_of_page((STUDIES / "unlabeled.md").read_text(encoding="utf-8")), encoding="utf-8")


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
