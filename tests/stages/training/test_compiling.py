"""torch.compile in a training: the same losses and weights up to rounding, and a checkpoint of a plain network."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import detector_samples
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch._dynamo.exc import TorchDynamoException

from deploy import plugins
from deploy.errors import ConfigError
from stages.artifacts import Dataset
from stages.training.batches.loader import TrainingBatch
from stages.training.checkpoint import build_detector, load_weights
from stages.training.distillation import Distillation, build_losses
from stages.training.layers.compiling import compile_layers, restore_layers
from stages.training.loop import Task, Trainer
from stages.training.teacher import Teacher

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which torch looks at while it compiles


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("dataset"), train_images=8)


def trainer(dataset: Dataset, folder: Path, **options: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    task = Task(build_detector(tiny.detector(), 10, 0))
    return Trainer(task, dataset, tiny.schedule(**options), seed=0, device="cpu", folder=folder, label="test")


class TestLayers:
    def test_only_backbone_and_head_are_compiled_and_all_is_restored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compiled: list[Any] = []

        def counted(forward: Any) -> Any:
            def called(*args: Any) -> Any:
                compiled.append(forward.__self__)
                return forward(*args)

            return called

        monkeypatch.setattr(torch, "compile", counted)
        detector: Any = build_detector(tiny.detector(), 10, 0)
        names, images = list(detector.state_dict()), torch.zeros(1, 3, 64, 64)
        expected = detector(images).head["class_logits"][0]
        compile_layers(detector)
        assert torch.equal(detector(images).head["class_logits"][0], expected)
        assert compiled == [detector.model.backbone, detector.model.head]
        assert list(detector.state_dict()) == names
        restore_layers(detector)
        detector(images)
        assert len(compiled) == 2
        assert all("forward" not in vars(module) for module in detector.modules())

    @pytest.mark.parametrize("name", plugins.names("stages.detectors"))
    def test_every_detector_has_some_and_calls_them_in_training(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        called: set[int] = set()

        def counted(forward: Any) -> Any:
            def run(*args: Any, **options: Any) -> Any:
                called.add(id(forward.__self__))
                return forward(*args, **options)

            return run

        monkeypatch.setattr(torch, "compile", counted)
        detector = detector_samples.tiny(name).train()
        compile_layers(detector)
        detector(detector_samples.images(name), detector_samples.targets(detector, name))
        assert called == {id(module) for module in detector.layers()}

    def test_a_detector_without_any_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        detector = build_detector(tiny.detector(), 10, 0)
        monkeypatch.setattr(type(detector), "layers", lambda _: ())
        with pytest.raises(ConfigError, match=r"train\.compile: detector fcos has no layers that can be compiled"):
            compile_layers(detector)

    def test_a_machine_that_cannot_compile_is_told_what_to_change(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> Any:
            raise TorchDynamoException("no C++ compiler")

        monkeypatch.setattr(torch, "compile", lambda _, **__: fail)
        detector = build_detector(tiny.detector(), 10, 0)
        compile_layers(detector)
        with pytest.raises(ConfigError, match=r"train\.compile: .*no C\+\+ compiler.*set it to false"):
            detector(torch.zeros(1, 3, 64, 64))
        teacher = Teacher(build_detector(tiny.detector(tiny.TEACHER), 10, 0), compiled=True)
        with pytest.raises(ConfigError, match=r"distill\.compile_teacher: .*no C\+\+ compiler.*set it to false"):
            teacher(torch.zeros(1, 3, 64, 64))


def test_the_first_step_whose_gradient_is_measured_may_be_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch would reuse buffers of a backward pass that was first run where nothing runs it again."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    batch = TrainingBatch(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)), (tiny.target(), tiny.target()))
    sampled = []
    for compiled in (False, True):
        student, teacher = build_detector(tiny.detector(), 10, 0), build_detector(tiny.detector(tiny.TEACHER), 10, 5)
        losses = build_losses(tiny.distillation(), student, teacher, 0)
        task = Distillation(student, Teacher(teacher), losses, lambda _: 1.0, every=2).train()
        if compiled:
            compile_layers(student)
        for step in (1, 2):
            loss, terms = task(batch, task.prepare(batch, step))
            loss.backward()
        sampled.append({name: value.item() for name, value in terms.items() if name.startswith("share/")})
    assert len(sampled[0]) > 1
    assert sampled[1] == pytest.approx(sampled[0], rel=1e-3)


@pytest.mark.slow
def test_a_compiled_training_resumes_and_its_weights_load_into_a_plain_network(dataset: Dataset, tmp_path: Path) -> None:
    plain = trainer(dataset, tmp_path / "plain").run()
    stopped = trainer(dataset, tmp_path / "compiled", compile=True)
    save, epochs = stopped._saved.save, iter(range(9))

    def once() -> None:
        save()
        if next(epochs) == 1:
            raise KeyboardInterrupt

    stopped._saved.save = once  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    compiled = trainer(dataset, tmp_path / "compiled", compile=True).run()
    assert_close(compiled.state_dict(), plain.state_dict())

    save_file({name: tensor.contiguous() for name, tensor in compiled.state_dict().items()}, str(tmp_path / "weights.safetensors"))
    loaded = build_detector(tiny.detector(), 10, 3)
    load_weights(loaded, tmp_path / "weights.safetensors")
    assert_close(loaded.state_dict(), compiled.state_dict())


def assert_close(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=1e-3, msg=name)
