"""Weights of others: by name from torch's cache, and from files; what of them is taken, and what is refused."""

from collections import OrderedDict
from functools import partial
from pathlib import Path

import detector_samples
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import Weights, WeightsEnum

from deploy import plugins
from deploy.errors import ArtifactError
from stages import distill, train
from stages.artifacts import Checkpoint, Dataset
from stages.config import ExportConfig, StudentConfig, TeacherConfig
from stages.detectors.backbones.pretrained import Origin, Unread, load_backbone, load_torchvision, origin
from stages.detectors.zoo.layout import IMAGENET
from stages.training.checkpoint import build_detector, load_detector, save

UNREACHABLE = "http://127.0.0.1:9/tiny-0123abcd.pth"


class Choices(WeightsEnum):
    COCO_V1 = Weights(url=UNREACHABLE, transforms=partial(nn.Identity), meta={})


def model(num_classes: int = 3, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(body=nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), cls=nn.Conv2d(4, num_classes, 1), box=nn.Conv2d(4, 4, 1))
    )


def stored(file: Path, of: nn.Module) -> str:
    state = of.state_dict()
    if file.suffix == ".safetensors":
        save_file(state, str(file))
    else:
        torch.save(state, file)
    return str(file)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps what it has fetched."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def assert_equal(first: nn.Module, second: nn.Module, *, but: tuple[str, ...] = ()) -> None:
    own, other = first.state_dict(), second.state_dict()
    assert [name for name in own if not (own[name].shape == other[name].shape and torch.equal(own[name], other[name]))] == list(but)


class TestWholeModels:
    @pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
    def test_a_file_fills_the_model(self, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
        own = model(seed=1)
        assert load_torchvision(own, stored(tmp_path / f"w{suffix}", model()), Choices, ("cls.",)) == ()
        assert_equal(own, model())
        assert capsys.readouterr() == ("", "")
        assert origin(own) is None

    def test_a_name_is_read_from_torchs_cache(self, cache: Path) -> None:
        stored(cache / "tiny-0123abcd.pth", model())
        own = model(seed=1)
        load_torchvision(own, "COCO_V1", Choices, ("cls.",))
        assert_equal(own, model())
        assert origin(own) == Origin("COCO_V1", None, IMAGENET)

    def test_class_layers_of_another_number_of_classes_stay_and_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        own, file = model(5, seed=1), stored(tmp_path / "w.pth", model(3))
        fresh = ("cls.weight", "cls.bias")
        assert load_torchvision(own, file, Choices, ("cls.",)) == fresh
        assert_equal(own, model(5, seed=1), but=("body.0.weight", "body.0.bias", "box.weight", "box.bias"))
        assert_equal(own, model(3), but=fresh)
        out, err = capsys.readouterr()
        assert not out
        assert err == f"weights {file}: for a different number of classes, so these are re-initialized: cls.weight, cls.bias\n"

    def test_no_other_layer_may_differ(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"size mismatch for cls.weight.*, so they are for a different architecture"):
            load_torchvision(model(5), stored(tmp_path / "w.pth", model(3)), Choices, ("box.",))

    def test_a_class_layer_may_differ_in_its_number_of_classes_alone(self, tmp_path: Path) -> None:
        other = model()
        other.cls = nn.Conv2d(8, 3, 1)
        with pytest.raises(ArtifactError, match=r"size mismatch for cls.weight"):
            load_torchvision(model(), stored(tmp_path / "w.pth", other), Choices, ("cls.",))

    def test_statistics_that_frozen_normalization_does_not_count_are_not_missed(self, tmp_path: Path) -> None:
        state = {name: tensor for name, tensor in model().state_dict().items() if "num_batches" not in name}
        torch.save(state, tmp_path / "w.pth")
        own = model(seed=1)
        load_torchvision(own, str(tmp_path / "w.pth"), Choices, ())
        assert_equal(own, model())

    @pytest.mark.parametrize(("name", "said"), [("extra", "have an unknown tensor extra.weight"), ("body", "lack tensor body.0.weight")])
    def test_another_architecture_is_refused(self, tmp_path: Path, name: str, said: str) -> None:
        other = model()
        other.add_module("extra", nn.Conv2d(1, 1, 1)) if name == "extra" else other.__delattr__(name)
        with pytest.raises(ArtifactError, match=rf"w.pth {said}, so they are for a different architecture"):
            load_torchvision(model(), stored(tmp_path / "w.pth", other), Choices, ("cls.",))

    def test_nothing_is_read_of_unread_weights(self) -> None:
        own = model()
        assert load_torchvision(own, Unread("COCO_V9"), Choices, ()) == ()
        load_backbone(own, Unread("gone.pth"), Choices, ())
        assert_equal(own, model())


class TestRefusals:
    @pytest.mark.parametrize("weights", ["COCO_V2", "coco", "DEFAULT"])
    def test_a_name_that_there_is_not(self, weights: str) -> None:
        with pytest.raises(ValueError, match=rf"no weights '{weights}'.*choose from COCO_V1, or use a file \(.pth, .pt, .safetensors\)"):
            load_torchvision(model(), weights, Choices, ())

    def test_a_close_name_is_suggested(self) -> None:
        with pytest.raises(ValueError, match=r"no weights 'COCO_V2' \(did you mean COCO_V1\?\)"):
            load_torchvision(model(), "COCO_V2", Choices, ())

    def test_weights_that_cannot_be_fetched(self, cache: Path) -> None:
        with pytest.raises(ArtifactError, match=rf"weights COCO_V1 cannot be downloaded from {UNREACHABLE} \(.*\); go online"):
            load_torchvision(model(), "COCO_V1", Choices, ())

    def test_damage_in_the_cache(self, cache: Path) -> None:
        (cache / "tiny-0123abcd.pth").write_bytes(b"half of a file")
        with pytest.raises(ArtifactError, match=rf"{cache}/tiny-0123abcd.pth is damaged \(.*\); delete it"):
            load_torchvision(model(), "COCO_V1", Choices, ())

    @pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
    @pytest.mark.parametrize("content", [b"", b"neither of the two", None])
    def test_damaged_and_cut_files(self, tmp_path: Path, suffix: str, content: bytes | None) -> None:
        file = tmp_path / f"w{suffix}"
        stored(file, model())
        file.write_bytes(file.read_bytes()[:-200] if content is None else content)
        with pytest.raises(ArtifactError, match=rf"weights {file}: not a readable state dict \(.+\); use a different file"):
            load_torchvision(model(), str(file), Choices, ())

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"weights .*gone.pth: No such file or directory; use a different file"):
            load_torchvision(model(), str(tmp_path / "gone.pth"), Choices, ())

    def test_code_in_a_pickle_is_not_run(self, tmp_path: Path) -> None:
        torch.save(model(), tmp_path / "w.pth")
        with pytest.raises(ArtifactError, match="not a readable state dict"):
            load_torchvision(model(), str(tmp_path / "w.pth"), Choices, ())

    @pytest.mark.parametrize("content", [[1, 2], {"model": {"a": torch.ones(1)}}])
    def test_a_file_that_holds_something_else(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ArtifactError, match="contains no state dict"):
            load_torchvision(model(), str(tmp_path / "w.pth"), Choices, ())


class TestBackbones:
    def test_the_classifier_alone_is_dropped(self, tmp_path: Path) -> None:
        own, other = model()[:1], model(seed=2)
        file = stored(tmp_path / "w.pth", other)
        load_backbone(own, file, Choices, ("cls.", "box."))
        assert_equal(own, other[:1])
        with pytest.raises(ArtifactError, match=r"backbone_weights .* have an unknown tensor box.weight"):
            load_backbone(own, file, Choices, ("cls.",))

    def test_a_classifier_that_is_there_stays_as_it_is(self, tmp_path: Path) -> None:
        own = model(5, seed=1)
        load_backbone(own, stored(tmp_path / "w.pth", model(3)), Choices, ("cls.",))
        assert_equal(own, model(3), but=("cls.weight", "cls.bias"))


class TestStages:
    """What the stages make of a detector's weights."""

    def identities(self, options: dict[str, str]) -> list[dict[str, str]]:
        detector = tiny.detector({**tiny.STUDENT, **options})
        student = StudentConfig(detector=detector)
        return [train.identity(TeacherConfig(detector=detector)), train.identity(student), distill.identity(tiny.distillation(), student)]

    @pytest.mark.parametrize("option", ["weights", "backbone_weights"])
    def test_the_content_of_files_and_folders_counts(self, tmp_path: Path, option: str) -> None:
        (tmp_path / "folder" / "deep").mkdir(parents=True)
        for path, inner in (("w.pth", "w.pth"), ("folder", "folder/deep/w.pth")):
            seen = []
            for content in (b"one", b"two"):
                (tmp_path / inner).write_bytes(content)
                seen += self.identities({option: str(tmp_path / path)})
            assert seen[0] == seen[1] == seen[2] != seen[3]
            assert list(seen[0]) == [f"detector.{option}"]
        (tmp_path / "folder" / "deep" / "w.pth").rename(tmp_path / "folder" / "w.pth")
        assert self.identities({option: str(tmp_path / "folder")})[0] != seen[-1]

    def test_every_option_that_is_declared_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A detector's third file of weights, of whatever name."""
        (tmp_path / "detectors").mkdir()
        signature = "num_classes: int, *, encoder: Annotated[str, OptionRole.WEIGHTS] | None = None, note: str = ''"
        (tmp_path / "detectors" / "third.py").write_text(f"def build({signature}) -> None:\n    pass\n")
        monkeypatch.setattr(plugins, "folder", lambda _: tmp_path / "detectors")
        file = tmp_path / "encoder.pth"
        seen = []
        for content in (b"one", b"two"):
            file.write_bytes(content)
            detector = tiny.detector({"name": "third", "encoder": str(file), "note": str(file)})
            seen.append(train.identity(TeacherConfig(detector=detector)))
        assert [list(one) for one in seen] == [["detector.encoder"]] * 2
        assert seen[0] != seen[1]

    def test_a_name_has_no_content(self) -> None:
        assert self.identities({"weights": "COCO_V1"}) == [{}, {}, {}]
        assert self.identities({}) == [{}, {}, {}]

    def test_without_epochs_a_detector_is_judged_as_it_was_loaded(self, tmp_path: Path) -> None:
        dataset = tiny.dataset(tmp_path / "data")
        pretrained = build_detector(tiny.detector(), 10, 3)
        torch.save({name.removeprefix("model."): tensor for name, tensor in pretrained.state_dict().items()}, tmp_path / "w.pth")
        detector = tiny.detector({**tiny.STUDENT, "weights": str(tmp_path / "w.pth")})
        config = TeacherConfig(detector=detector, train=tiny.schedule(epochs=0))
        checkpoint = self.run(tmp_path / "out", config, dataset)
        (tmp_path / "w.pth").unlink()  # a checkpoint needs no other file
        assert checkpoint.facts.epochs == 0
        assert checkpoint.facts.accuracy is not None
        assert not (tmp_path / "out" / "curves.csv").exists()
        assert_equal(load_detector(checkpoint), pretrained)

    def run(self, out: Path, config: TeacherConfig, dataset: Dataset) -> Checkpoint:
        out.mkdir()
        return train.train_teacher(out, config, 0, "cpu", "val", dataset, ExportConfig())

    def test_a_checkpoint_is_loaded_though_its_first_weights_are_gone(self, tmp_path: Path) -> None:
        dataset = tiny.dataset(tmp_path / "data")
        choice = tiny.detector({**tiny.STUDENT, "backbone_weights": str(tmp_path / "gone.pth")})
        detector = build_detector(choice, 10, 1, pretrained=False)
        judged = self.run(tmp_path / "out", TeacherConfig(detector=tiny.detector(), train=tiny.schedule(epochs=0)), dataset)
        (tmp_path / "ck").mkdir()
        save(tmp_path / "ck", detector, choice, dataset.facts.contract, 1, judged.facts.accuracy, detector_samples.decisions())
        assert_equal(load_detector(Checkpoint(tmp_path / "ck")), detector)

    def test_a_build_depends_on_its_arguments_alone(self, tmp_path: Path) -> None:
        file = stored(tmp_path / "w.pth", build_detector(tiny.detector(), 10, 3).get_submodule("model"))
        choice = tiny.detector({**tiny.STUDENT, "weights": file})
        fresh = build_detector(choice, 10, 1, pretrained=False)
        assert_equal(build_detector(choice, 10, 1), build_detector(tiny.detector(), 10, 3))
        assert_equal(fresh, build_detector(tiny.detector(), 10, 1))
        assert_equal(build_detector(choice, 10, 1, pretrained=False), fresh)
