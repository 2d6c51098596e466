"""What runs on an NVIDIA GPU through torch: the same numbers as on the CPU, in each precision, broken off and resumed."""

import copy
import json
from pathlib import Path
from typing import Any

import detector_samples
import pytest
import tiny
import torch
from places import ROOT
from torch import Tensor

from deploy import plugins
from deploy.errors import ArtifactError
from pipeline.cli import main
from stages.artifacts import Dataset
from stages.config import ExportConfig
from stages.measurement.torch_accuracy import evaluate
from stages.training.batches.loader import TrainingBatch, TrainingImages, loader
from stages.training.batches.streams import EpochBatches
from stages.training.checkpoint import build_detector
from stages.training.device import accelerator_for
from stages.training.distillation import Distillation, build_losses, loss_factor
from stages.training.loop import Task, Trainer
from stages.training.teacher import Teacher

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here"),
]
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data") / "digits", train_images=24)


@pytest.fixture(autouse=True)
def _exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 as on the CPU, not in TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def batch_of(dataset: Dataset, *, masks: bool = False) -> TrainingBatch:
    images = TrainingImages(dataset, tiny.schedule(), seed=0, masks=masks)
    batch: TrainingBatch = next(iter(loader(images, EpochBatches(len(images), 4, 0, 0, 1), workers=0)))
    return batch


def distillation(**options: Any) -> Distillation:
    """The tiny student with a tiny teacher, its losses at their full weight."""
    student, teacher = build_detector(tiny.detector(), 10, 0), build_detector(tiny.detector(tiny.TEACHER), 10, 5)
    config = tiny.distillation()
    return Distillation(student, Teacher(teacher, **options), build_losses(config, student, teacher, 0), loss_factor(config, 9), every=4)


def step(task: Task, batch: TrainingBatch) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The terms of one step, and every gradient."""
    loss, terms = task(batch, task.prepare(batch, 0))
    loss.backward()
    grads = {name: p.grad.cpu() for name, p in task.named_parameters() if p.grad is not None}
    return {name: float(value.detach()) for name, value in terms.items()}, grads


def distance(own: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of two sets of gradients, as a share of the second's norm."""
    assert own.keys() == other.keys()
    apart = torch.stack([(own[name] - other[name]).norm() for name in other]).norm()
    return float(apart / torch.stack([grad.norm() for grad in other.values()]).norm())


def test_a_step_of_distillation_is_that_of_the_cpu(dataset: Dataset) -> None:
    batch = batch_of(dataset)
    terms, grads = step(distillation().train(), batch)
    on_gpu, gpu_grads = step(distillation().to(CUDA).train(), batch.to(CUDA))
    assert on_gpu == pytest.approx(terms, rel=1e-3, abs=1e-5)
    assert distance(gpu_grads, grads) < 1e-2


@pytest.mark.parametrize("name", plugins.names("stages.detectors"))
def test_a_step_of_every_detector_is_that_of_the_cpu(name: str) -> None:
    if "stages.detectors.set_prediction" in plugins.source("stages.detectors", name).read_text(encoding="utf-8"):
        pytest.importorskip("transformers", minversion="5.23")
    detector = detector_samples.tiny(name)
    images = detector_samples.images(name)
    batch = TrainingBatch(images, detector_samples.targets(detector, name))
    on_gpu = copy.deepcopy(detector).to(CUDA)
    torch.manual_seed(0)
    expected = detector.train()(batch.images, batch.targets)
    torch.manual_seed(0)
    outputs = on_gpu.train()(batch.images.to(CUDA), batch.to(CUDA).targets)
    for own, other in zip(outputs.pyramid, expected.pyramid, strict=True):
        assert torch.allclose(own.cpu(), other, rtol=1e-3, atol=1e-4 * float(other.detach().abs().max()))
    assert outputs.losses.keys() == expected.losses.keys()
    torch.stack(list(outputs.losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in on_gpu.parameters() if p.grad is not None)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("teacher", ["same", "fp32", "bf16", "fp16"])
def test_half_precision_trains_to_about_the_same_losses(dataset: Dataset, tmp_path: Path, precision: str, teacher: Any) -> None:
    last = {}
    for chosen in ("fp32", precision):
        task = distillation(precision=teacher)
        folder = tmp_path / chosen
        folder.mkdir()
        config = tiny.schedule(epochs=8, precision=chosen)
        training = Trainer(task, dataset, config, seed=0, device="cuda", folder=folder, label="test")
        assert training._accelerator.mixed_precision == {"fp32": "no"}.get(chosen, chosen)
        training.run()
        rows = training._progress.rows
        assert rows[-1]["loss"] < rows[0]["loss"]
        last[chosen] = rows[-1]["loss"]
        assert next(task.teacher.detector.parameters()).device.type == "cuda"
    assert last[precision] == pytest.approx(last["fp32"], rel=0.1)


def test_a_compiled_teacher_gives_the_same_features(dataset: Dataset) -> None:
    images = batch_of(dataset).to(CUDA).images
    teacher = build_detector(tiny.detector(tiny.TEACHER), 10, 5)
    plain, compiled = Teacher(teacher)(images), Teacher(teacher, compiled=True)(images)
    for own, other in zip(compiled.pyramid, plain.pyramid, strict=True):
        assert torch.allclose(own, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_training_broken_off_goes_on(dataset: Dataset, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.schedule(epochs=3, precision=precision)

    def training(folder: str) -> Trainer:
        (tmp_path / folder).mkdir(exist_ok=True)
        return Trainer(distillation(), dataset, config, seed=0, device="cuda", folder=tmp_path / folder, label="test")

    whole = training("whole").run().state_dict()
    broken = training("broken")
    take = broken.step

    def stop(batch: TrainingBatch) -> list[dict[str, float]]:
        if broken._progress.step == 13:
            raise KeyboardInterrupt
        return take(batch)

    monkeypatch.setattr(broken, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = training("broken")
    after = resumed.run().state_dict()
    assert [row["epoch"] for row in resumed._progress.rows] == [1, 2, 3]
    floats = {name: value for name, value in whole.items() if value.is_floating_point()}
    assert distance({name: after[name] for name in floats}, floats) < 1e-2  # sums on a GPU come in no fixed order


def test_a_loss_that_is_not_finite_is_named(dataset: Dataset, tmp_path: Path) -> None:
    task = distillation()
    with torch.no_grad():
        next(iter(task.losses["attention"].parameters())).fill_(torch.nan)
    training = Trainer(task, dataset, tiny.schedule(), seed=0, device="cuda", folder=tmp_path, label="test")
    with pytest.raises(ArtifactError, match=r"attention/feature/8 is nan at step 0"):
        training.run()


def test_the_judged_map_is_that_of_the_cpu(dataset: Dataset, tmp_path: Path) -> None:
    export = ExportConfig()
    training = Trainer(
        Task(build_detector(tiny.detector(tiny.TEACHER), 10, 0)),
        dataset,
        tiny.schedule(epochs=60, learning_rate=2e-3),
        seed=0,
        device="cuda",
        folder=tmp_path,
        label="test",
    )
    trained = training.run()
    assert next(trained.parameters()).device.type == "cuda"
    on_gpu = evaluate(tmp_path, trained, dataset, "train", export)
    on_cpu = evaluate(tmp_path, trained.cpu(), dataset, "train", export)
    assert on_gpu.map is not None
    assert on_gpu.map > 0.2
    assert on_gpu.map == pytest.approx(on_cpu.map, abs=1e-3)


def test_auto_is_the_gpu(tmp_path: Path) -> None:
    assert accelerator_for(tiny.schedule(), "auto", tmp_path).device.type == "cuda"
    assert accelerator_for(tiny.schedule(), "cpu", tmp_path).device.type == "cpu"


def test_the_pipeline_runs_from_images_to_bundles(tmp_path: Path) -> None:
    root = ROOT
    short = ["teacher.train.epochs=1", "student.train.epochs=1", "student.train.precision=bf16", "data.train_images=200"]
    sizes = ["data.val_images=50", "data.test_images=50", "data.shifted_images=50", "device=cuda", "gates.0.min=0.0"]
    options = [part for value in (*short, *sizes) for part in ("--set", value)]
    code = main(["run", str(root / "pipeline.yaml"), "--runs", str(tmp_path / "runs"), *options])
    assert code in {0, 10, 11, 12}
    summaries = list((tmp_path / "runs").rglob("summary.json"))
    assert summaries
    assert all(json.loads(file.read_text(encoding="utf-8")) for file in summaries)
