"""Does distillation help? Trains teachers and students for many epochs over several seeds and compares them on test images.

    python benchmarks/evidence/run.py                              print what has been measured: tables and one line of JSON
    python benchmarks/evidence/run.py run [--study NAME ...] [--role NAME ...] [--seed N ...] [--units N]
    python benchmarks/evidence/run.py page                         write docs/evidence.md and its plots for the completed studies

A study is a pipeline file in benchmarks/evidence/. Each training appends one row to <study>.jsonl and is never repeated. An
interrupted training resumes. Settings are chosen on split val; split test is read once, when the training has ended. Only one
process may train at a time; pin it to a free core with OMP_NUM_THREADS=1 taskset -c 1 ...
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagenet_start import fetch_imagenet_start
from page import TWICE, over, write_page
from pydantic import BaseModel
from turns import alone

from deploy import plugins
from pipeline.arena.variants import ablated
from pipeline.config import PipelineConfig, load
from pipeline.config.pipeline import PLUGIN_SECTIONS
from pipeline.results.ablation import BASELINE, TOGETHER, Ablation, ablation_of, render
from pipeline.store.store import Store
from stages.artifacts import Checkpoint, Dataset
from stages.config import DataConfig, DistillConfig, LossConfig, TrainConfig

ROOT = Path(__file__).parents[2]
STUDIES = Path(__file__).parent
RUNS = ROOT / "runs" / "evidence"
KEPT_BYTES = 4 * 10**9
"""Disk space for what teachers make of training images: all their students at a seed share it, bit for bit."""
KEPT_ROW = "row.json"
"""The file beside a training's weights that has its row: weights trained again, by other code or elsewhere, have other figures."""
TEACHER = "teacher"
PAIRS = ("cross-kind", "two-stage")
"""Three-seed studies that ask only whether the losses also help other detectors; the others have five and also test each loss."""
FOLDS = ("bccd",)
"""Studies whose images are split into five folds. At each seed, the student trains on one fold and is tested on the next; its teacher
was trained on the other three. Over the five seeds, every image is tested once."""


@dataclass(frozen=True)
class Study:
    """A pipeline file: a teacher, a student and their data."""

    name: str
    config: PipelineConfig

    @property
    def rows_file(self) -> Path:
        """The file with the study's rows, one JSON object per line."""
        return STUDIES / f"{self.name}.jsonl"

    @property
    def folds(self) -> int:
        """Number of folds that the images are split into; 0 if every seed has the same splits."""
        return 5 if self.name in FOLDS else 0

    @property
    def seeds(self) -> range:
        """The seeds to train."""
        return range(3 if self.name in PAIRS else 5)

    def teacher_seed(self, seed: int) -> int:
        """With folds, each seed has its own teacher, which has not seen that seed's test images; otherwise one teacher serves all seeds."""
        return seed if self.folds else 0

    def roles(self) -> list[str]:
        """The networks to train at each seed, the teacher first."""
        if self.name in PAIRS:
            return [TEACHER, BASELINE, TOGETHER]
        return [TEACHER, BASELINE, *(name for name in ablated(self.config) if name != BASELINE), TWICE]

    def losses(self, role: str) -> tuple[LossConfig, ...]:
        """The losses of a student; none of a teacher or a baseline."""
        return ablated(self.config).get(role, ())

    def training(self, role: str) -> TrainConfig:
        """How a network is trained."""
        train = self.config.teacher.train if role == TEACHER else self.config.student.train
        return train.model_copy(update={"epochs": 2 * train.epochs}) if role == TWICE else train

    def other_images(self, role: str) -> bool:
        """With folds, whether a network is trained on the images that the student is not trained on."""
        return role == TEACHER

    def units(self) -> Iterator[tuple[str, int]]:
        """Role and seed of every training, seed by seed."""
        for seed in self.seeds:
            yield from ((role, seed) for role in self.roles() if role != TEACHER or self.teacher_seed(seed) == seed)


def studies() -> list[Study]:
    """Every study in the folder."""
    return [Study(file.stem, load(file)) for file in sorted(STUDIES.glob("*.yaml"))]


def digest(study: Study, role: str, seed: int) -> str:
    """Hash of every configuration value that a training's figures depend on; the row also records the commit.

    Options at their defaults are left out, so an option that is added later changes no hash; a default that is changed has to be written
    into the studies' files.
    """
    config, losses = study.config, study.losses(role)
    parts: list[Any] = [_set(config.data), study.folds, seed, role]
    if role != TEACHER:
        parts.append(_set(config.student))
    if role == TEACHER or losses:
        parts.append(_set(config.teacher))
    if study.folds and not study.other_images(TEACHER):
        parts.append("one set of images")
    if losses:
        parts += [[_set(loss) for loss in losses], _set(config.distill, exclude={"losses"})]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _set(section: BaseModel, exclude: set[str] | None = None) -> dict[str, Any]:
    return _without_defaults(section, hashed(section, exclude))


def hashed(section: BaseModel, exclude: set[str] | None = None) -> dict[str, Any]:
    """What a hash is made of: a section without options at their defaults, which for a loss's weight is 1, as when the study began."""
    given = section.model_dump(mode="json", exclude_defaults=True, exclude=exclude)
    losses = [(section, given)] if isinstance(section, LossConfig) else []
    if isinstance(section, DistillConfig) and "losses" in given:
        losses = list(zip(section.losses, given["losses"], strict=True))
    for loss, values in losses:
        values.pop("weight", None)
        if loss.weight != 1.0:
            values["weight"] = loss.weight
    return given


def _without_defaults(section: BaseModel, given: dict[str, Any]) -> dict[str, Any]:
    """Without the options of plugins that have their defaults."""
    kind = PLUGIN_SECTIONS.get(type(section))
    fields = plugins.schema(kind.package, getattr(section, kind.key)).model_fields if kind is not None else {}
    parts = {
        key: _without_defaults(part, value) if isinstance(part := getattr(section, key, None), BaseModel) else value
        for key, value in given.items()
    }
    return {
        key: value for key, value in parts.items() if key not in fields or value != json.loads(json.dumps(fields[key].default, default=str))
    }


def rows(study: Study) -> list[dict[str, Any]]:
    """The study's rows that were measured with its current configuration."""
    if not study.rows_file.exists():
        return []
    every = [json.loads(line) for line in study.rows_file.read_text(encoding="utf-8").splitlines()]
    return [row for row in every if row["digest"] == digest(study, row["role"], row["seed"])]


def elsewhere(study: Study, role: str, seed: int) -> dict[str, Any] | None:
    """A row of the same training in a different study, since studies may share a teacher or a baseline."""
    wanted = digest(study, role, seed)
    same = next((row for other in studies() for row in rows(other) if row["digest"] == wanted), None)
    return None if same is None else {**same, "study": study.name}


def run(study: Study, role: str, seed: int) -> dict[str, Any]:
    """Train one network and evaluate it on both splits; keep its weights and return its row."""
    from stages.measurement.torch_accuracy import evaluate
    from stages.training.batches.shared_folder import shared_in
    from stages.training.checkpoint import build_detector, finish, load_detector, load_weights
    from stages.training.distillation import Distillation, build_losses, loss_factor
    from stages.training.loop import Task, Trainer
    from stages.training.teacher import Teacher

    config, dataset = study.config, data(study, role, seed)
    num_classes = len(dataset.facts.contract.classes)
    choice = config.teacher.detector if role == TEACHER else config.student.detector
    train = study.training(role)
    folder = RUNS / digest(study, role, seed)
    started = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    detector = build_detector(choice, num_classes, seed)
    given = config.student.weights if role != TEACHER else None
    if given is not None:
        load_weights(detector, Path(given))
    task = Task(detector)
    losses = study.losses(role)
    if losses:
        teacher = load_detector(Checkpoint(RUNS / digest(study, TEACHER, study.teacher_seed(seed))))
        distillation = config.distill.model_copy(update={"losses": losses})
        built = build_losses(distillation, detector, teacher, seed)
        factor = loss_factor(distillation, train.num_steps(dataset.facts.splits["train"].num_images))
        with shared_in(RUNS / "teacher-outputs", f"{digest(study, TEACHER, study.teacher_seed(seed))}-{seed}", KEPT_BYTES):
            guide = Teacher(teacher, distillation.teacher_precision)
        task = Distillation(detector, guide, built, factor, share=distillation.share)
    trained = Trainer(task, dataset, train, seed=seed, device=config.device, folder=folder, label=f"{study.name}: {role} {seed}").run()
    scratch = folder / "test"
    scratch.mkdir(exist_ok=True)
    tested = evaluate(scratch, trained, dataset, "test", config.export.decisions)
    checkpoint = finish(folder, trained, choice, train.epochs, dataset, "val", config.export.decisions)
    figures: dict[str, Any] = {}
    for split, accuracy in {"val": checkpoint.facts.accuracy, "test": tested}.items():
        figures[split] = {"map": accuracy.map, "map_50": accuracy.map_50, "num_images": accuracy.num_images}
        if accuracy.segmentation is not None:
            figures[split]["mask_map"] = accuracy.segmentation.map
    taught = kept_row(study, TEACHER, study.teacher_seed(seed)) if losses else None
    row = {
        "study": study.name,
        "role": role,
        "seed": seed,
        **figures,
        "epochs": train.epochs,
        "parameters": sum(p.numel() for p in trained.parameters()),
        "minutes": round((time.time() - started) / 60, 1),
        "commit": commit(),
        "digest": digest(study, role, seed),
        **({} if taught is None else {"teacher_map": taught["test"]["map"]}),
    }
    (folder / KEPT_ROW).write_text(json.dumps(row), encoding="utf-8")
    return row


def kept_row(study: Study, role: str, seed: int) -> dict[str, Any] | None:
    """The row of the weights that are on this machine, which is next to them; None if it has none."""
    file = RUNS / digest(study, role, seed) / KEPT_ROW
    row: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    return row


def commit() -> str:
    """The checked-out commit, with `*` if there are local changes."""
    command = ["git", "describe", "--always", "--dirty=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - no input from outside
    return done.stdout.strip()


def data(study: Study, role: str, seed: int) -> Dataset:
    """The study's images; with folds, only those that this seed's teacher or student is trained and tested on."""
    from stages.prepare import prepare

    store = Store(RUNS, study.name)
    whole = store.run(prepare, study.config.data)
    if not study.folds:
        return whole
    own, tested = seed % study.folds, (seed + 1) % study.folds
    others = study.other_images(role)
    train = set(range(study.folds)) - {own, tested} if others else {own}
    root = RUNS / "folds" / f"{study.name}-{seed}-{'teacher' if others else 'student'}"
    fold(whole, root, study.folds, train, tested)
    options = {"dataset": "coco", "root": str(root), "preprocessing": study.config.data.preprocessing}
    return store.run(prepare, DataConfig.model_validate(options))


def fold(whole: Dataset, root: Path, count: int, train: set[int], tested: int) -> None:
    """Write COCO's layout to `root`: training and test images from the folds `train` and `tested` out of `count`; val is unchanged."""
    shutil.rmtree(root, ignore_errors=True)
    for kind in ("train", "val", "test"):
        (root / "images" / kind).mkdir(parents=True)
    (root / "annotations").mkdir()
    split = {kind: json.loads(whole.annotations(kind).read_text(encoding="utf-8")) for kind in ("train", "val", "test")}
    pool = [("train", image) for image in split["train"]["images"]] + [("test", image) for image in split["test"]["images"]]
    pool.sort(key=lambda item: hashlib.sha256(item[1]["file_name"].encode()).hexdigest())
    parts = {"test": pool[tested::count], "train": [x for i, x in enumerate(pool) if i % count in train]}
    parts["val"] = [("val", image) for image in split["val"]["images"]]
    for kind, images in parts.items():
        made: dict[str, Any] = {"images": [], "annotations": [], "categories": split["train"]["categories"]}
        for origin, image in images:
            new = {**image, "id": len(made["images"]) + 1, "file_name": f"{origin}-{Path(image['file_name']).name}"}
            (root / "images" / kind / new["file_name"]).symlink_to(whole.images(origin) / image["file_name"])
            made["images"].append(new)
            for one in split[origin]["annotations"]:
                if one["image_id"] == image["id"]:
                    made["annotations"].append({**one, "id": len(made["annotations"]) + 1, "image_id": new["id"]})
        (root / "annotations" / f"instances_{kind}.json").write_text(json.dumps(made), encoding="utf-8")


def finding(study: Study) -> Ablation | None:
    """The results on split test for the seeds at which every role has been trained; None if there is no such seed yet."""
    found = _by(study, "map")
    return None if found is None else replace(found, masks=_by(study, "mask_map"))


def _by(study: Study, metric: str) -> Ablation | None:
    """By one metric; None if no seed has it of every student. A teacher may lack it."""
    values: dict[str, dict[int, float]] = {role: {} for role in study.roles()}
    num_images: dict[int, int] = {}
    for row in rows(study):
        if row["test"].get(metric) is not None:
            values[row["role"]][row["seed"]] = row["test"][metric]
        num_images[row["seed"]] = row["test"]["num_images"]
    students = study.roles()[1:]
    taught = [s for s in study.seeds if study.teacher_seed(s) in values[TEACHER] or (metric != "map" and not values[TEACHER])]
    whole = tuple(s for s in taught if all(s in values[role] for role in students))
    if not whole:
        return None
    teachers = [values[TEACHER][study.teacher_seed(seed)] for seed in whole] if values[TEACHER] else []
    count = sum(num_images[seed] for seed in whole) if study.folds else num_images[whole[0]]
    reached = {role: tuple(values[role][seed] for seed in whole) for role in students}
    return ablation_of((study.name, "test", count, whole), sum(teachers) / len(teachers) if teachers else None, reached)


def figures(found: Ablation) -> dict[str, Any]:
    """The results for programs; gains are in points."""
    gained = {}
    for role, gain in found.gains.items():
        low = None if gain.low is None else round(gain.low * 100, 2)
        gained[role] = {"points": round(gain.mean * 100, 2), "low": low, "closed": closed(found, role)}
    longer = over(found, TWICE)
    beyond = {} if longer is None else {"all losses over twice the steps": round(longer.mean * 100, 2)}
    return {"seeds": len(found.seeds), **gained, **beyond}


def closed(found: Ablation, role: str) -> float | None:
    """Gap closed, rounded to two digits; None if the teacher does not lead."""
    share = found.closed(role)
    return None if share is None else round(share, 2)


def work(args: argparse.Namespace) -> None:
    """Run the missing trainings, at most `--units` of them."""
    RUNS.mkdir(parents=True, exist_ok=True)
    fetch_imagenet_start()
    done = 0
    for study in studies():
        for role, seed in study.units():
            wanted = (not args.study or study.name in args.study) and (not args.role or role in args.role)
            measured = any((row["role"], row["seed"]) == (role, seed) for row in rows(study))
            if not wanted or measured or (args.seed and seed not in args.seed) or done == args.units:
                continue
            row = elsewhere(study, role, seed) or run(study, role, seed)
            with study.rows_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            done += 1


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("show", "run", "page"), default="show")
    known = studies()
    parser.add_argument("--study", nargs="+", default=[], choices=[study.name for study in known])
    parser.add_argument("--role", nargs="+", default=[], choices=list(dict.fromkeys(role for study in known for role in study.roles())))
    parser.add_argument("--seed", nargs="+", type=int, default=[])
    parser.add_argument("--units", type=int, default=-1, help="stop after N trainings (default: no limit)")
    args = parser.parse_args()
    if args.action == "run":
        with alone(RUNS):
            work(args)
        return
    found = {study.name: one for study in known if (one := finding(study)) is not None}
    if args.action == "page":
        done = [study.name for study in known if study.name in found and len(found[study.name].seeds) == len(study.seeds)]
        write_page(ROOT / "docs", STUDIES, {name: found[name] for name in done})
    print("\n\n".join(f"{name}\n{render(one)}" for name, one in found.items()))
    print(json.dumps({name: figures(one) for name, one in found.items()}))


if __name__ == "__main__":
    main()
