"""Time and memory of the distillation losses in one step: ours compared with the plain form, which builds the relation matrix.

The features are those of one 800 x 1216 px image: five levels of 256 channels at strides 4 to 64, channels last in memory. Both
forms use preset code_two_stage and the same weights, and are first checked to compute the same terms; forward and backward passes are
timed. Then a complete training step of pipeline.yaml's pair is compared with the baseline's step plus the teacher's forward pass.

Then every loss has a row: its own time and memory on features of that size, and those of a training step on one image with this loss
only. "attention + non_local" and focal_global there have the same levels and the same 1x1 adapters, in float32. Features are those of
two-stage detectors, for losses that read more of dense ones or of set prediction; the step is that of pipeline.yaml's pair or, for
losses on set prediction, of the pair in benchmarks/evidence/auto/set-prediction.yaml.

Repeats are interleaved; medians are compared. Peak memory is measured in a separate process for each form (Linux only).
Usage: python benchmarks/distillation.py [--repeats N] [--steps N] [--threads N] [--size H W] [--rows NAME ...]
"""

import argparse
import json
import math
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, max_pool2d

from deploy import plugins
from pipeline.config import load
from stages.config import DetectorConfig
from stages.detectors import Detector, Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.attention import Attention
from stages.losses.features.non_local_block import NonLocalBlock, relation_matrix
from stages.losses.non_local import NonLocal
from stages.training.batches.loader import TrainingBatch
from stages.training.checkpoint import build_detector
from stages.training.distillation import Distillation, build_losses, loss_factor, side_of
from stages.training.loop import Task
from stages.training.optimizer import optimizer_for
from stages.training.teacher import Teacher

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH, CHANNELS = 800, 1216, 256
PYRAMID = NetworkSide("any", "dense", 1, (4, 8, 16, 32, 64), (CHANNELS,) * 5, ("pyramid",), None)
PRESET = "code_two_stage"


def built() -> tuple[Attention, NonLocal]:
    """Both losses; zero-initialized scales are randomized, otherwise the relation modules would add nothing."""
    torch.manual_seed(0)
    attention, non_local = (
        plugins.load("stages.losses", name).build(PYRAMID, PYRAMID, preset=PRESET) for name in ("attention", "non_local")
    )
    assert isinstance(attention, Attention)
    assert isinstance(non_local, NonLocal)
    for name, parameter in non_local.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return attention, non_local


def features() -> tuple[Outputs, Outputs]:
    """A student's and a teacher's pyramid, channels last in memory as in training; the student's requires gradients."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(math.ceil(HEIGHT / stride), math.ceil(WIDTH / stride)) for stride in PYRAMID.strides]

    def level(size: tuple[int, int]) -> Tensor:
        return torch.randn(1, CHANNELS, *size, generator=generator).contiguous(memory_format=torch.channels_last)

    student, teacher = ([level(size) for size in sizes] for _ in range(2))
    return Outputs(tuple(level.requires_grad_() for level in student), PYRAMID.strides, {}), Outputs(tuple(teacher), PYRAMID.strides, {})


def plain_block(block: NonLocalBlock, level: Tensor) -> Tensor:
    """The relation module as in the formula, with the matrix of all positions by all pooled positions."""
    theta = block.theta(level).flatten(2)
    phi, g = (max_pool2d(part(level), min(block.pool, *level.shape[-2:])).flatten(2) for part in (block.phi, block.g))
    assert block.norm is not None
    drawn = block.out(plain_relation(theta, phi, g).unflatten(2, level.shape[-2:]))
    return level + batch_norm(drawn, None, None, block.norm.weight, block.norm.bias, training=True)


def plain_relation(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """[B, C, n] from theta [B, C, n] and phi and g [B, C, N] by the matrix [B, n, N]."""
    relation = theta.transpose(1, 2) @ phi / phi.shape[2]
    return (relation @ g.transpose(1, 2)).transpose(1, 2)


def distance(one: Tensor, other: Tensor) -> Tensor:
    """The Euclidean distance."""
    return ((one - other) ** 2).sum().sqrt()


def plain(attention: Attention, non_local: NonLocal, student: Outputs, teacher: Outputs) -> Tensor:
    """The sum of all weighted terms, computed term by term from the formulas with the losses' parameters and weights."""
    temperature, total = attention.preset.temperature, torch.zeros(())
    for index, (own, other) in enumerate(zip(student.pyramid, teacher.pyramid, strict=True)):

        def mask(level: Tensor) -> Tensor:
            flat = level.abs().mean(dim=1).flatten(1)
            return ((flat / temperature).softmax(dim=1) * flat.shape[1]).reshape(level.shape[0], 1, *level.shape[2:])

        weights = ((mask(own) + mask(other)) / 2).detach()
        feature = ((other - attention.adapters[index](own)) ** 2 * weights).sum().sqrt()
        spatial = distance(other.mean(dim=1, keepdim=True), attention.spatial_adapters[index](own.mean(dim=1, keepdim=True)))
        channel = distance(other.mean(dim=(2, 3)), attention.channel_adapters[index](own.mean(dim=(2, 3))))
        ours, theirs = non_local.own[index], non_local.other[index]
        assert isinstance(ours, NonLocalBlock)
        assert isinstance(theirs, NonLocalBlock)
        relation = distance(non_local.adapters[index](plain_block(ours, own)), plain_block(theirs, other))
        total = total + attention.weight("feature") * feature + attention.weight("spatial") * (spatial + channel)
        total = total + non_local.weight("relation") * relation
    return total


def ours(attention: Attention, non_local: NonLocal, student: Outputs, teacher: Outputs) -> Tensor:
    """The same sum, as computed in training."""
    terms = [value * loss.weight(name) for loss in (attention, non_local) for name, value in loss(student, teacher, ()).items()]
    return torch.stack(terms).sum()


FORMS = {"ours": ours, "plain": plain}


def medians(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds per side over interleaved repeats, after one warm-up call."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if repeat:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def relation_times(repeats: int) -> dict[str, float]:
    """Seconds for the relation product alone at the finest level, forward and backward."""
    block = built()[1].own[0]
    assert isinstance(block, NonLocalBlock)
    positions, pooled = 200 * 304, 25 * 38
    tensors = [torch.randn(1, block.theta.out_channels, n).requires_grad_() for n in (positions, pooled, pooled)]

    def side(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(product(*tensors).sum(), tensors)

    def linear(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        return relation_matrix(phi, g) @ theta

    torch.testing.assert_close(linear(*tensors), plain_relation(*tensors), rtol=1e-3, atol=1e-4)
    return medians({"ours": side(linear), "plain": side(plain_relation)}, repeats)


def term_times(repeats: int) -> dict[str, float]:
    """Seconds for all terms and their adapters, forward and backward."""
    losses, (student, teacher) = built(), features()
    values = {name: form(*losses, student, teacher).item() for name, form in FORMS.items()}
    assert math.isclose(values["ours"], values["plain"], rel_tol=1e-4), values

    def side(form: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: form(*losses, student, teacher).backward()

    return medians({name: side(form) for name, form in FORMS.items()}, repeats)


def peak(name: str, threads: int) -> float:
    """MiB that one forward and backward pass of a form needs beyond its inputs and parameters."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, threads))


def _peak(name: str, threads: int) -> float:
    torch.set_num_threads(threads)
    losses, (student, teacher) = built(), features()
    for tensor in (*student.pyramid, *(p for loss in losses for p in loss.parameters())):
        tensor.grad = torch.zeros_like(tensor)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = _resident("VmHWM")
    FORMS[name](*losses, student, teacher).backward()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def step_times(steps: int) -> dict[str, float]:
    """Seconds for pipeline.yaml's pair: a step of each training, the teacher's forward pass as it is and as distillation runs it."""
    config = load(ROOT / "pipeline.yaml")
    train, size = config.student.train, config.data.preprocessing
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(train.batch_size, 3, size.height, size.width, generator=generator).contiguous(memory_format=torch.channels_last)
    target = Target(torch.tensor([[10.0, 10.0, 40.0, 40.0], [50.0, 30.0, 80.0, 60.0]]), torch.tensor([1, 2]))
    batch = TrainingBatch(images, (target,) * train.batch_size)

    def network(choice: object) -> Detector:
        made = build_detector(choice, 10)  # type: ignore[arg-type]
        return made.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]

    choices = config.teacher.detector, config.teacher.detector, config.student.detector, config.student.detector
    as_trained, teacher, student, baseline = map(network, choices)
    guide = Teacher(teacher)
    losses = build_losses(config.distill, student, teacher, 0)
    distilled = Distillation(student, guide, losses, loss_factor(config.distill, 1000), config.distill.shares_every, config.distill.share)

    def step(task: Task) -> Callable[[], object]:
        optimizer, number = optimizer_for(task, train), iter(range(1_000_000))

        def run() -> None:
            loss, _ = task(batch, task.prepare(batch, next(number)))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(task.parameters(), 10.0)
            optimizer.step()

        return run

    def forward() -> None:
        with torch.no_grad():
            as_trained.eval()(images)

    work = {
        "distilled": step(distilled),
        "baseline": step(Task(baseline).train()),
        "teacher": partial(guide, images),
        "as trained": forward,
    }
    return medians(work, steps)


TOGETHER = "attention + non_local"
NETWORKS: dict[str, dict[str, Any]] = {
    "faster_rcnn": {"backbone": "resnet10", "width": 8, "fpn_channels": CHANNELS, "strides": PYRAMID.strides, "box_head_channels": 64},
    "fcos": {"backbone": "resnet10", "width": 8, "fpn_channels": CHANNELS, "strides": PYRAMID.strides},
    "rt_detr_v2": {"backbone": "resnet10", "backbone_width": 8, "width": CHANNELS, "layers": 2},
}
"""What the features of a loss by itself belong to: the first that gives what it reads."""
NUM_PROPOSALS = 1000
PAIRS = (ROOT / "pipeline.yaml", ROOT / "benchmarks" / "evidence" / "auto" / "set-prediction.yaml")
"""The pairs whose steps are measured: the first that gives what a loss reads."""
OBJECTS = Target(torch.tensor([[40.0, 40.0, 140.0, 120.0], [100.0, 60.0, 180.0, 160.0]]), torch.tensor([0, 0]))


def names_of(row: str) -> Sequence[str]:
    """The losses of a row."""
    return row.split(" + ")


def rows() -> list[str]:
    """Every loss alone, and the two of one paper together."""
    return [TOGETHER, *plugins.names("stages.losses")]


def reads(row: str) -> set[str]:
    """What the losses of a row read."""
    return {one for name in names_of(row) for one in plugins.load("stages.losses", name).READS}


def row_task(row: str, size: tuple[int, int]) -> Callable[[], Tensor]:
    """The weighted sum of a row's losses on random features of one image, with 1x1 adapters where they have none for equal channels."""
    torch.manual_seed(0)
    made = (build_detector(DetectorConfig.model_validate({"name": name, **options}), 1) for name, options in NETWORKS.items())
    network = next(one for one in made if serves(one, row)).requires_grad_(requires_grad=False)
    losses: list[Loss] = []
    for name in names_of(row):
        preset = {"preset": PRESET} if name in names_of(TOGETHER) else {}
        loss: Any = plugins.load("stages.losses", name).build(side_of(network), side_of(network), **preset)
        if name == "focal_global":
            loss.adapters = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 1) for _ in PYRAMID.strides)
        losses.append(loss)
    student, teacher = (seen(network, size, seed) for seed in (1, 2))

    def total() -> Tensor:
        terms = [value * loss.weight(name) for loss in losses for name, value in loss(student, teacher, [OBJECTS]).items()]
        return torch.stack(terms).sum()

    return total


def seen(network: Detector, size: tuple[int, int], seed: int) -> Outputs:
    """Random features as a network's outputs, channels last in memory; they and the outputs of its head, if any, require gradients."""
    generator = torch.Generator().manual_seed(seed)
    places = [(math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in network.strides]
    shapes = [(1, channels, *place) for channels, place in zip(network.channels, places, strict=True)]
    maps = [torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last) for shape in shapes]
    headless = Outputs(tuple(maps), network.strides, {}, size=size, network=network)
    made = network.head_on(maps, size) if "teacher_head" in network.gives else headless
    head = {name: tuple(level.detach().requires_grad_() for level in levels) for name, levels in made.head.items()}
    corners = torch.rand(NUM_PROPOSALS, 2, generator=generator) * (torch.tensor(size[::-1]) / 2)
    sides = 8 + torch.rand(NUM_PROPOSALS, 2, generator=generator) * (torch.tensor(size[::-1]) / 2 - 8)
    proposals = (torch.cat((corners, corners + sides), dim=1),) if network.kind == "two_stage" else None
    return replace(made, pyramid=tuple(level.requires_grad_() for level in maps), head=head, proposals=proposals)


def step_task(row: str | None, pair: Path, size: tuple[int, int]) -> Callable[[], object]:
    """A training step of a pair on one image with a row's losses; None: of the baseline, with the teacher's forward pass."""
    config = load(pair)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
    batch = TrainingBatch(images, (OBJECTS,))
    teacher, student = (build_detector(choice.detector, 10).train() for choice in (config.teacher, config.student))
    for network in (teacher, student):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    guide = Teacher(teacher)
    names = names_of(row) if row else ()
    chosen = config.distill.model_validate({"losses": [{"name": name, "weight": 1.0} for name in names or ("hint",)]})
    losses = build_losses(chosen, student, teacher, 0) if row else {}
    task: Task = Distillation(student, guide, losses, loss_factor(chosen, 1000)) if row else Task(student).train()
    optimizer, number = optimizer_for(task, config.student.train), iter(range(1_000_000))

    def run() -> None:
        if not row:
            guide(images)
        loss, _ = task(batch, task.prepare(batch, next(number)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def serves(network: Detector, row: str) -> bool:
    """Whether a network gives what the losses of a row read."""
    return reads(row) <= {*network.gives, "targets"}


def pair_of(row: str) -> Path:
    """The pair whose step is measured."""
    return next(file for file in PAIRS if serves(build_detector(load(file).student.detector, 1), row))


def row_peak(row: str | None, size: tuple[int, int], threads: int, pair: Path | None = None) -> float:
    """MiB that a row's losses, or a step of a pair with them, need beyond what is there before, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_row_peak, (row, size, threads, pair))


def _row_peak(row: str | None, size: tuple[int, int], threads: int, pair: Path | None) -> float:
    torch.set_num_threads(threads)
    total = None if pair is not None or row is None else row_task(row, size)
    run = step_task(row, pair or PAIRS[0], size) if total is None else total
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = _resident("VmHWM")
    if total is None:
        run()
    else:
        total().backward()
    return _resident("VmHWM") - before


def print_rows(chosen: Sequence[str], size: tuple[int, int], repeats: int, threads: int) -> dict[str, float]:
    """One line per row; returns how many times as long focal_global takes as attention and non_local together, if both are chosen."""
    alone = {row: row_task(row, size) for row in chosen}
    sides: dict[str, Callable[[], object]] = {row: lambda total=total: total().backward() for row, total in alone.items()}  # type: ignore[misc]
    own, pair = medians(sides, repeats), {row: pair_of(row) for row in chosen}
    for file in dict.fromkeys(pair.values()):
        measured: list[str | None] = [None, *(row for row in chosen if pair[row] == file)]
        whole = medians({str(row): step_task(row, file, size) for row in measured}, repeats)
        base = {"ms": whole["None"] * 1e3, "mib": row_peak(None, size, threads, file)}
        print(
            f"{file.relative_to(ROOT)}: baseline and teacher, step on {size[0]} x {size[1]} px: {base['ms']:.0f} ms, {base['mib']:.0f} MiB"
        )
        for row in filter(None, measured):
            itself = f"alone {own[row] * 1e3:8.1f} ms {row_peak(row, size, threads):7.0f} MiB"
            more = f"in a step {whole[row] * 1e3 - base['ms']:+8.1f} ms {row_peak(row, size, threads, file) - base['mib']:+7.0f} MiB"
            print(f"{row:<24}   {itself}   {more}", flush=True)
    return {"focal_global_ratio": own["focal_global"] / own[TOGETHER]} if {TOGETHER, "focal_global"} <= own.keys() else {}


def main() -> None:
    """Print each comparison and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--size", type=int, nargs=2, default=(HEIGHT, WIDTH), help="height and width in px of the image of the rows")
    parser.add_argument("--rows", nargs="*", default=rows(), help="losses that have a row; none: no rows")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.repeats} interleaved repeats, {args.threads} thread(s), torch {torch.__version__}")
    relation, terms = relation_times(args.repeats), term_times(args.repeats)
    print(f"relation product, stride 4   plain {relation['plain'] * 1e3:8.1f} ms   ours {relation['ours'] * 1e3:8.1f} ms")
    print(f"all terms                    plain {terms['plain'] * 1e3:8.1f} ms   ours {terms['ours'] * 1e3:8.1f} ms")
    memory = {name: peak(name, args.threads) for name in FORMS}
    print(f"peak beyond inputs           plain {memory['plain']:8.0f} MiB  ours {memory['ours']:8.0f} MiB")
    step = step_times(args.steps)
    parts = step["baseline"] + step["teacher"]
    print(f"training step, pipeline.yaml  baseline + teacher {parts * 1e3:.1f} ms   distillation {step['distilled'] * 1e3:.1f} ms")
    print(f"its teacher's forward pass    as trained {step['as trained'] * 1e3:.1f} ms   norms folded {step['teacher'] * 1e3:.1f} ms")
    compared = print_rows(args.rows, tuple(args.size), args.repeats, args.threads) if args.rows else {}
    figures = {
        **compared,
        "relation_speedup": relation["plain"] / relation["ours"],
        "speedup": terms["plain"] / terms["ours"],
        "memory_ratio": memory["ours"] / memory["plain"],
        "step_ratio": step["distilled"] / parts,
        "teacher_speedup": step["as trained"] / step["teacher"],
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
