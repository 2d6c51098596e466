"""Two gloo processes train as one process does on the same global batches."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import head_samples
import pytest
import tiny
import torch
from head_samples import SHAPE, built, part
from PIL import Image
from places import ROOT
from published_samples import METHODS, learned
from torch import Tensor, distributed, multiprocessing, nn

from stages.facts import StepTimeFacts, read_facts
from stages.losses.features.moments import moments
from stages.losses.features.non_local_block import NonLocalBlock
from stages.training.batches.loader import TrainingBatch
from stages.training.checkpoint import build_detector
from stages.training.distillation import Distillation, build_losses
from stages.training.teacher import Teacher

SMALL = ROOT / "examples" / "small.yaml"
SHORT = ["data.train_images=8", "teacher.train.epochs=1", "device=cpu"]
OPTIONS = ["baseline.equal=steps", "teacher.train.epochs=5", "student.train.epochs=5", *SHORT[::2]]  # one step an epoch
BIN = Path(sys.executable).parent
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node=2", "--no-python"]
TOLERANCE = 2e-4
"""Relative; float32 sums in another order, over five steps of AdamW."""
SHARES = 0.05
"""Relative, of shares of the gradient: each process takes the norms over its own images."""


def run(runs: Path, *launcher: str, until: str = "distill", options: Sequence[str] = OPTIONS) -> str:
    settings = [word for option in options for word in ("--set", option)]
    command = [*launcher, str(BIN / "edgedistill"), "run", str(SMALL), "--runs", str(runs), "--until", until, *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def curves(runs: Path, stage: str) -> list[dict[str, float]]:
    (folder,) = runs.glob(f".store/{stage}-*")
    with (folder / "curves.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if name != "images_per_s" and value} for row in csv.DictReader(file)]


def judged(runs: Path, stage: str) -> list[tuple[int, bool]]:
    """The steps of a training's curve, and whether each has a mAP."""
    (file,) = runs.glob(f".store/{stage}-*/artifact.json")
    points = json.loads(file.read_text(encoding="utf-8"))["curve"]["points"]
    return [(point["step"], point["map"] is not None) for point in points]


def test_two_processes_give_the_losses_of_one_step_for_step(tmp_path: Path) -> None:
    run(tmp_path / "one")
    text = run(tmp_path / "two", *TORCHRUN)
    assert text.count("prepare   ") == 2, "only the first process may speak"  # it starts, and it is done
    for stage in ("train_teacher", "train_baseline", "distill"):
        one, two = curves(tmp_path / "one", stage), curves(tmp_path / "two", stage)
        assert len(one) == len(two) == 5
        for step, (expected, got) in enumerate(zip(one, two, strict=True)):
            for name, value in expected.items():
                close = SHARES if name.startswith("share/") else TOLERANCE
                assert got[name] == pytest.approx(value, rel=close, abs=1e-6), f"{stage} step {step} {name}"
        assert judged(tmp_path / "two", stage) == judged(tmp_path / "one", stage) == [(4, True), (5, True)]
    artifacts = [
        sorted(path.name for path in (tmp_path / side / ".store").iterdir() if not path.name.startswith(".")) for side in ("one", "two")
    ]
    assert artifacts[0] == artifacts[1]
    leftovers = [path for path in (tmp_path / "two" / ".store").iterdir() if path.name.endswith(".partial")]
    assert not leftovers
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_two_processes_learn_from_images_without_labels_as_one_does(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(11):
        noise = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).resize((64, 64)).save(images / f"{number}.png")
    pseudo = "{threshold: 0.05, start: 0.3, warmup: 0}"
    unlabelled = [f"data.unlabelled={images}", f"teacher.unlabelled={{pseudo: {pseudo}}}"]
    unlabelled += [f"distill.unlabelled={{refine: 0.7, pseudo: {pseudo}}}", "export.score_threshold=0.01"]
    run(tmp_path / "one", options=[*OPTIONS, *unlabelled])
    run(tmp_path / "two", *TORCHRUN, options=[*OPTIONS, *unlabelled])
    for stage in ("train_teacher", "distill"):
        one, two = curves(tmp_path / "one", stage), curves(tmp_path / "two", stage)
        assert one[-1]["unlabelled/objects"] > 0, stage
        for step, (expected, got) in enumerate(zip(one, two, strict=True)):
            for name, value in expected.items():
                close = SHARES if name.startswith("share/") else TOLERANCE
                assert got[name] == pytest.approx(value, rel=close, abs=1e-6), f"{stage} step {step} {name}"


@pytest.mark.slow
def test_two_processes_time_their_steps_together(tmp_path: Path) -> None:
    run(tmp_path, *TORCHRUN, until="time_steps", options=SHORT)
    (found,) = (read_facts(folder, StepTimeFacts) for folder in tmp_path.glob(".store/time_steps-*"))
    assert 0 < found.ratio.low <= found.ratio.ratio <= found.ratio.high


def related() -> tuple[NonLocalBlock, Tensor]:
    """A relation module with a batch norm that counts, and the features of four images."""
    torch.manual_seed(0)
    block = NonLocalBlock(6, 3, 2, batch_norm=True)
    assert block.norm is not None
    nn.init.normal_(block.norm.weight)
    return block, torch.randn(4, 6, 5, 7) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None, None]


def added_to_each(block: NonLocalBlock, features: Tensor) -> Tensor:
    """What the module adds to each position, [B, n, C]."""
    drawn = block(features, features.flatten(2).transpose(1, 2))
    weight, bias = block.related(drawn, *moments(drawn.rows, drawn.rows[:, :, :0]))
    added: Tensor = drawn.rows @ (weight - torch.eye(weight.shape[1])).transpose(1, 2) + bias[:, None]
    return added


def relate(rank: int, folder: Path) -> None:
    """One process's half of the images."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    block, features = related()
    added = added_to_each(block, features[2 * rank : 2 * rank + 2])
    added.sin().sum().backward()
    torch.save((added.detach(), [parameter.grad for parameter in block.parameters()]), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_batch_norm_of_relation_modules_sees_the_images_of_all_processes(tmp_path: Path) -> None:
    block, features = related()
    added = added_to_each(block, features)
    added.sin().sum().backward()
    drawn = added.detach().flatten(0, 1)
    assert block.norm is not None
    torch.testing.assert_close(drawn.mean(dim=0), block.norm.bias.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(drawn.std(dim=0, correction=0), block.norm.weight.detach().abs(), atol=1e-4, rtol=0)
    multiprocessing.spawn(relate, (tmp_path,), nprocs=2)  # type: ignore[attr-defined,no-untyped-call]
    (first, gradients), (second, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.testing.assert_close(torch.cat((first, second)), added.detach(), rtol=1e-4, atol=1e-5)
    for parameter, one, other in zip(block.parameters(), gradients, others, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(one + other, parameter.grad, rtol=1e-4, atol=1e-4)


ALIKE = [name for name in METHODS if name != "masked_generative"]
"""Published methods whose losses do not depend on how images are dealt out; that one draws masks of its own in every process."""


def learn(rank: int, folder: Path) -> None:
    """One process's half of the images."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    torch.save([learned(name, slice(2 * rank, 2 * rank + 2)) for name in ALIKE], folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_published_losses_of_two_processes_are_those_of_one_on_all_images(tmp_path: Path) -> None:
    multiprocessing.spawn(learn, (tmp_path,), nprocs=2)  # type: ignore[attr-defined,no-untyped-call]
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name, (first, gradients), (second, others) in zip(ALIKE, *halves, strict=True):
        terms, expected = learned(name, slice(0, 4))
        for term, value in terms.items():
            torch.testing.assert_close((first[term] + second[term]) / 2, value, rtol=1e-4, atol=1e-6, msg=f"{name}: {term}")
        assert len(expected) == len(gradients) == len(others)
        largest = max([whole.abs().max().item() for whole in expected], default=0)
        for whole, one, other in zip(expected, gradients, others, strict=True):
            torch.testing.assert_close((one + other) / 2, whole, rtol=1e-3, atol=1e-5 * largest, msg=name)


HEADS = {"dense_labels": 0, "localization": 0, "localization with distributions": 5, "chen": 0}
"""Losses on heads that do not depend on how images are dealt out, and the bins of their heads' sides."""


def on_heads(images: slice) -> list[tuple[dict[str, float], list[Tensor]]]:
    """Each loss's terms and the gradient of their sum at the student's class logits, for some of two images."""
    found = []
    for title, bins in HEADS.items():
        loss = built(title.partition(" ")[0], shape=replace(SHAPE, bins=bins))
        student, teacher = (part(head_samples.outputs(seed, bins=bins), images) for seed in (1, 2))
        terms = loss(student, teacher, head_samples.targets()[images])
        torch.stack(list(terms.values())).sum().backward()
        gradients = [level.grad for level in student.head["class_logits"] if level.grad is not None]
        found.append(({name: term.item() for name, term in terms.items()}, gradients))
    return found


def balanced(images: slice) -> dict[str, float]:
    """What `weight: auto` has measured after a step on some of two images."""
    student, teacher = build_detector(tiny.detector(), 10, 0), build_detector(tiny.detector(tiny.TEACHER), 10, 5)
    built_losses = build_losses(tiny.distillation(losses=tiny.AUTO), student, teacher, 0)
    task = Distillation(student, Teacher(teacher), built_losses, lambda _: 1.0).train()
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    batch = TrainingBatch(pixels[images], tuple([tiny.target(), tiny.target()][images]))
    task(batch, task.prepare(batch, 0))
    logs: dict[str, float] = task.balance.state_dict()["logs"]
    return logs


def one_image(rank: int, folder: Path) -> None:
    """One process's half of the images: losses on heads, and weights that are found."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    own = slice(rank, rank + 1)
    torch.save((on_heads(own), balanced(own)), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_losses_on_heads_and_found_weights_of_two_processes(tmp_path: Path) -> None:
    """The losses are those of one process on all images; the weights are the same in both, from the mean of their norms."""
    multiprocessing.spawn(one_image, (tmp_path,), nprocs=2)  # type: ignore[attr-defined,no-untyped-call]
    (first, logs), (second, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for title, (terms, gradients), (one, grads), (other, more) in zip(HEADS, on_heads(slice(0, 2)), first, second, strict=True):
        for term, value in terms.items():
            assert (one[term] + other[term]) / 2 == pytest.approx(value, rel=1e-4, abs=1e-7), f"{title}: {term}"
        for whole, mine, theirs in zip(gradients, grads, more, strict=True):
            torch.testing.assert_close(torch.cat((mine, theirs)) / 2, whole, rtol=1e-3, atol=1e-7, msg=title)
    assert logs == others
    alone = [balanced(slice(rank, rank + 1)) for rank in (0, 1)]
    for part_name, log in logs.items():
        assert math.exp(log) == pytest.approx(sum(math.exp(one[part_name]) for one in alone) / 2, rel=1e-4), part_name
