"""Where the time of a training step goes: waiting for images, forward, backward, optimizer, and everything else.

Trains examples/edge.yaml's student without a teacher on photographs of 640 x 480 px for some steps, as `run` does. On a GPU the three
parts are measured with events, which do not stop it; the rest is what the whole takes in addition. With --before, the training of
another commit is measured alternately, in a process of its own. The last line is JSON: milliseconds per step of each part, and the
share of the time outside forward, backward and optimizer, of which the limit is 5%.
Usage: python benchmarks/training_step.py [--before CHECKOUT] [--side 640] [--steps 20] [--batch 8] [--rounds 3] [--folder DIR]
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
PARTS = ("forward", "backward", "optimizer")
OURS, BEFORE = "ours", "before"
WARMUP = 3
"""Steps that are not counted."""


class StepParts:
    """Seconds of the parts of steps: by events on a GPU, by the clock on a CPU."""

    def __init__(self, device: Any) -> None:
        self._is_gpu = device.type == "cuda"
        self._marks: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, measured as a part."""

        def measured(*args: Any, **options: Any) -> Any:
            began = self._now()
            try:
                return work(*args, **options)
            finally:
                self._marks[part].append((began, self._now()))

        return measured

    def restart(self) -> None:
        """Forget what was measured."""
        self.synchronize()
        self._marks.clear()

    def synchronize(self) -> None:
        """Wait until the GPU is done."""
        if self._is_gpu:
            import torch

            torch.cuda.synchronize()

    def seconds(self) -> dict[str, float]:
        """The sum of each part."""
        self.synchronize()
        if self._is_gpu:
            return {part: sum(one.elapsed_time(other) for one, other in marks) / 1000 for part, marks in self._marks.items()}
        return {part: sum(other - one for one, other in marks) for part, marks in self._marks.items()}

    def _now(self) -> Any:
        if not self._is_gpu:
            return perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def profile(root: Path, scratch: Path, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds per step of each part in the code that is imported."""
    from pipeline.config import load
    from stages.artifacts import Dataset
    from stages.config import DataConfig
    from stages.prepare import prepare
    from stages.training.checkpoint import build_detector
    from stages.training.loop import Task, Trainer

    options = [f"student.train.batch_size={args.batch}", "student.train.epochs=1"]
    student = load(ROOT / "examples" / "edge.yaml", options).student
    if not (scratch / "artifact.json").exists():
        scratch.mkdir(parents=True, exist_ok=True)
        data = {"dataset": "coco", "root": str(root), "max_doubtful": 1, "preprocessing": {"height": args.side, "width": args.side}}
        prepare(scratch, DataConfig.model_validate(data))
    dataset = Dataset(scratch)
    detector = build_detector(student.detector, len(dataset.facts.contract.classes), 0, pretrained=False)
    with tempfile.TemporaryDirectory() as folder:
        where = {"device": args.device, "folder": Path(folder)}
        trainer: Any = Trainer(Task(detector), dataset, student.train, seed=0, label="profile", **where)
        return _steps(trainer, args.steps)


def _steps(trainer: Any, num_steps: int) -> dict[str, float]:
    clock = StepParts(trainer.device)
    trainer._model.train()  # noqa: SLF001 - the very objects that a training uses
    trainer._model.forward = clock.timed("forward", trainer._model.forward)  # noqa: SLF001
    trainer._accelerator.backward = clock.timed("backward", trainer._accelerator.backward)  # noqa: SLF001
    trainer._optimizer.step = clock.timed("optimizer", trainer._optimizer.step)  # noqa: SLF001
    supply = trainer._loaded()  # noqa: SLF001
    waited, began = 0.0, 0.0
    for number in range(num_steps + WARMUP):
        if number == WARMUP:
            clock.restart()
            waited, began = 0.0, perf_counter()
        asked = perf_counter()
        batch = next(supply)
        waited += perf_counter() - asked
        trainer.step(batch)
    found = clock.seconds()
    whole = perf_counter() - began
    supply.close()
    parts = {**found, "waiting for images": waited, "step": whole}
    return {name: 1000 * seconds / num_steps for name, seconds in parts.items()}


def asked(side: str, code: Path, args: argparse.Namespace) -> dict[str, float]:
    """`profile` in a process with the code of a checkout."""
    options = [f"--{name}={getattr(args, name)}" for name in ("side", "steps", "batch", "device", "folder")]
    command = [sys.executable, str(Path(__file__)), "--of", side, *options]
    here = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(command, env=here, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - this file
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Medians of each part, and the share outside the three that compute."""
    answers = {}
    for side, found in rounds.items():
        shares = [1 - sum(one[part] for part in PARTS) / one["step"] for one in found]
        ms = {part: round(statistics.median(one[part] for one in found), 2) for part in found[0]}
        answers[side] = {"ms": ms, "share_outside": round(statistics.median(shares), 4), "shares": [round(one, 4) for one in shares]}
    return answers


def main() -> None:
    """Print each round, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of another commit, whose training is measured, too")
    parser.add_argument("--side", type=int, default=640, help="sides of the network's input, in px")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "training_step", help="where images and prepared data are kept")
    parser.add_argument("--of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.of is not None:
        print(json.dumps(profile(args.folder / "data", args.folder / f"{args.of}-{args.side}", args)))
        return
    from coco_size import make

    count = args.batch * (args.steps + WARMUP)
    args.folder = args.folder / str(count)
    make(args.folder / "data", count, 10, count)
    codes = {OURS: ROOT} | ({} if args.before is None else {BEFORE: args.before})
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in codes}
    order = random.Random(0)  # noqa: S311 - not for secrets
    for number in range(args.rounds):
        for side in order.sample(list(codes), len(codes)):
            rounds[side].append(asked(side, codes[side], args))
            print(f"round {number + 1}: {side}: {rounds[side][-1]}", flush=True)
    print(json.dumps(summary(rounds)))


if __name__ == "__main__":
    main()
