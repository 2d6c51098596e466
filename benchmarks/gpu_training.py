"""How fast a GPU trains and distills: Faster R-CNN R50, taught by R101, at 800 x 1216 px, as the paper's two-stage pairs.

Images per second of a plain and of a distilled step, in fp32 and bf16, compiled and not; the teacher's share of a distilled step; the
images that one core's loader process reads per second, and so how many cores one GPU needs. Weights are random, images are made: neither
changes the time of a step. Every figure is printed as soon as it is known; what does not fit into the time is left out and named. The last
line is JSON. `--tiny` tries the script itself, with small networks, on any machine.
Usage: python benchmarks/gpu_training.py [--seconds 460] [--batch 8] [--device auto] [--tiny] [--folder DIR]
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]  # for the images, and for the code

WARMUP, STEPS, FEWEST = 3, 20, 5
"""Steps before those that count; steps that count, and fewest of them if time runs out."""
COMPILE_SECONDS = 100.0
"""What compiling may take; without as much time left, nothing is compiled."""
SIZE, TINY_SIZE = (800, 1216), (64, 96)
"""Height and width of the networks' input, in px."""
NUM_IMAGES, BATCHES = 64, 4
RESNETS = {
    side: {"version": "mmdet", "backbone": f"resnet{depth}", "norm": "frozen"} for side, depth in (("student", 50), ("teacher", 101))
}
LOSSES = [{"name": name, "preset": "code_two_stage"} for name in ("attention", "non_local")]
VARIANTS = tuple(
    (precision, compiled) for precision in ("bf16", "fp32") for compiled in (False, True) if precision == "bf16" or not compiled
)
"""Those that matter most come first."""


class DeviceClock:
    """The time that is left, and the time of work on a device."""

    def __init__(self, device: str, seconds: float) -> None:
        import torch

        self.device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        self._until = perf_counter() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._until - perf_counter()

    def time(self, work: Callable[[], object]) -> float:
        """Seconds that work takes, with everything that it starts on the device."""
        self.wait()
        began = perf_counter()
        work()
        self.wait()
        return perf_counter() - began

    def wait(self) -> None:
        """Until the device has nothing to do."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()

    def median(self, works: Iterator[Callable[[], object]], share: float) -> tuple[float, int]:
        """Median seconds, and the number of counted repeats; of the time that is left, no more than a share is used."""
        until = perf_counter() + share * self.left
        for _ in range(WARMUP):
            self.time(next(works))
        taken: list[float] = []
        while len(taken) < STEPS and (len(taken) < FEWEST or perf_counter() < until):
            taken.append(self.time(next(works)))
        return statistics.median(taken), len(taken)


def prepared(folder: Path, size: tuple[int, int]) -> Any:
    """Images of 640 x 480 px as a prepared data set for networks of a size."""
    from coco_size import make

    from stages.artifacts import Dataset
    from stages.config import DataConfig
    from stages.prepare import prepare

    make(folder / "data", NUM_IMAGES, 4, NUM_IMAGES)
    made = folder / f"{size[0]}x{size[1]}"
    if not (made / "artifact.json").exists():
        made.mkdir(parents=True, exist_ok=True)
        fields = {"height": size[0], "width": size[1]}
        prepare(
            made, DataConfig.model_validate({"dataset": "coco", "root": str(folder / "data"), "max_doubtful": 1, "preprocessing": fields})
        )
    return Dataset(made)


def configured(precision: str, compiled: bool, batch: int, tiny: bool) -> tuple[Any, Any, Any]:
    """Distillation, student and teacher of a variant."""
    from stages.config import DetectorConfig, DistillConfig, StudentConfig
    from stages.detectors import faster_rcnn

    options: Mapping[str, Any] = dict.fromkeys(RESNETS, faster_rcnn.TINY) if tiny else RESNETS
    student, teacher = (DetectorConfig.model_validate({"name": "faster_rcnn", **options[side]}) for side in ("student", "teacher"))
    train = {"batch_size": batch, "optimizer": "sgd", "learning_rate": 1e-6, "precision": precision, "compile": compiled, "workers": 0}
    distill = {"losses": LOSSES, "warmup_steps": 0, "compile_teacher": compiled}
    return DistillConfig.model_validate(distill), StudentConfig.model_validate({"detector": student, "train": train}), teacher


@contextmanager
def trainers(dataset: Any, config: tuple[Any, Any, Any], clock: DeviceClock) -> Iterator[dict[str, Any]]:
    """A plain and a distilling training, whose memory is free again afterwards."""
    import torch

    from stages.training.costs.timing import tasks_of
    from stages.training.loop import Trainer

    distill, student, teacher = config
    with tempfile.TemporaryDirectory() as scratch:
        tasks = tasks_of(distill, student, teacher, dataset.facts.contract.classes)
        where = {"device": clock.device.type, "folder": Path(scratch)}
        made: dict[str, Any] = {name: Trainer(task, dataset, student.train, seed=0, label=name, **where) for name, task in tasks.items()}
        for one in made.values():
            one._model.train()  # noqa: SLF001 - the very object that a training uses
        yield made
    del made, tasks
    gc.collect()
    if clock.device.type == "cuda":
        torch.cuda.empty_cache()


def batches(dataset: Any, train: Any, device: Any) -> list[Any]:
    """Batches that are on the device already: loading is measured by itself."""
    from stages.training.batches.loader import TrainingImages, collate

    images = TrainingImages(dataset, train, 0)
    found = []
    for number in range(BATCHES):
        batch: Any = collate([images[0, (number * train.batch_size + index) % len(images)] for index in range(train.batch_size)])
        found.append(batch.to(device))
    return found


def variant(dataset: Any, config: tuple[Any, Any, Any], clock: DeviceClock, share: float) -> dict[str, Any]:
    """Images per second of both steps, the teacher's share of the distilled one, and the peak of memory."""
    from itertools import cycle

    import torch

    train = config[1].train
    supply = cycle(batches(dataset, train, clock.device))
    found: dict[str, Any] = {}
    with trainers(dataset, config, clock) as made:
        for name, trainer in made.items():
            if clock.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds, counted = clock.median((lambda trainer=trainer: trainer.step(next(supply)) for _ in iter(int, 1)), share)
            found[name] = {"ms": round(1000 * seconds, 1), "images_per_s": round(train.batch_size / seconds, 2), "steps": counted}
            if clock.device.type == "cuda":
                found[name]["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        guide = made["distilled"]._task.teacher  # noqa: SLF001
        accelerator = made["distilled"]._accelerator  # noqa: SLF001

        def teach() -> object:
            with accelerator.autocast():
                return guide(next(supply).images)

        seconds, _ = clock.median((teach for _ in iter(int, 1)), share / 2)
    found["teacher_share"] = round(1000 * seconds / found["distilled"]["ms"], 3)
    found["times_as_long"] = round(found["distilled"]["ms"] / found["plain"]["ms"], 3)
    return found


def loader_speed(dataset: Any, train: Any, clock: DeviceClock, share: float) -> float:
    """Images per second that one process reads and prepares on one core; nothing is kept."""
    import torch

    from stages.training.batches.loader import TrainingImages

    images = TrainingImages(dataset, train, 0)
    images._bytes_left = 0  # noqa: SLF001 - each image is read
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    until, taken, number = perf_counter() + share * clock.left, list[float](), 0
    while number < NUM_IMAGES and (number < FEWEST or perf_counter() < until):
        began = perf_counter()
        _ = images[0, number]
        taken.append(perf_counter() - began)
        number += 1
    torch.set_num_threads(threads)
    return 1 / statistics.median(taken[1:])


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything that fits into the time."""
    import torch

    from deploy import machine

    clock = DeviceClock(args.device, args.seconds)
    torch.manual_seed(0)
    size = TINY_SIZE if args.tiny else SIZE
    dataset = prepared(folder, size)
    name = torch.cuda.get_device_name() if clock.device.type == "cuda" else machine.cpu_model()
    found: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "size": size,
        "batch": args.batch,
    }
    found["loader_images_per_s_per_core"] = round(
        loader_speed(dataset, configured("fp32", False, args.batch, args.tiny)[1].train, clock, 0.05), 1
    )
    _say("loader, one core", found["loader_images_per_s_per_core"])
    chosen = [(precision, compiled) for precision, compiled in VARIANTS if clock.device.type == "cuda" or precision == "fp32"]
    found["variants"], found["left_out"] = {}, []
    for number, (precision, compiled) in enumerate(chosen):
        title = f"{precision}, compiled" if compiled else precision
        if clock.left < (COMPILE_SECONDS if compiled else 15.0):
            found["left_out"].append(f"{title}: no time left")
            continue
        try:
            one = variant(dataset, configured(precision, compiled, args.batch, args.tiny), clock, 0.3 / (len(chosen) - number))
        except torch.cuda.OutOfMemoryError:
            found["left_out"].append(f"{title}: out of memory; pass a smaller --batch")
            continue
        found["variants"][title] = one
        _say(title, one)
    fastest = max((one["plain"]["images_per_s"] for one in found["variants"].values()), default=0.0)
    found["cores_for_fastest_plain_step"] = round(fastest / found["loader_images_per_s_per_core"], 1)
    found["cores"] = machine.num_cores()
    found["bound_by_loader"] = found["cores_for_fastest_plain_step"] > machine.num_cores() - 1
    found["seconds"] = round(args.seconds - clock.left)
    return found


def _say(title: str, figure: object) -> None:
    print(f"{title}: {json.dumps(figure)}", flush=True)


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=460.0, help="time for everything")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--tiny", action="store_true", help="small networks and images")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "gpu_training", help="where images and prepared data are kept")
    args = parser.parse_args()
    if DeviceClock(args.device, 0).device.type == "cpu" and not args.tiny:
        print(json.dumps({"skipped": "torch finds no NVIDIA GPU here; --tiny tries the script"}))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(measure(args, args.folder)))


if __name__ == "__main__":
    main()
