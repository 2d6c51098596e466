"""Every backbone in a pyramid, and torchvision's and timm's own networks as second implementations."""

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from deploy.errors import ArtifactError
from stages.detectors.backbones.catalog import NAMES, Norm, build_layers
from stages.detectors.backbones.pretrained import Unread
from stages.detectors.backbones.pyramid import PyramidBackbone

QUICK = {"resnet10", "resnet18", "mobilenet_v3_small", "regnet_y_400mf", "efficientnet_b0"}
TIMM = ["timm:resnet18", "timm:mobilenetv3_small_050", "timm:convnext_atto", "timm:efficientnet_lite0"]


def some(names: tuple[str, ...]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


def pyramid(name: str, **options: Any) -> PyramidBackbone:
    defaults: dict[str, Any] = {"width": 64, "norm": None, "channels": 32, "strides": (8, 16, 32), "weights": None}
    return PyramidBackbone(**{"name": name, **defaults, **options})


def image(height: int = 64, width: int = 64, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def coarsest(layers: nn.Module) -> Tensor:
    features = image()
    for child in layers.children():
        features = child(features)
    return features


def assert_pyramid(net: PyramidBackbone, strides: tuple[int, ...], channels: int, height: int, width: int) -> None:
    levels = list(net(image(height, width)).values())
    assert [tuple(level.shape) for level in levels] == [(1, channels, -(-height // s), -(-width // s)) for s in strides]


@pytest.mark.parametrize("name", [*some(NAMES), *some(tuple(TIMM))])
class TestEveryBackbone:
    def test_gives_a_pyramid_at_its_strides_and_channels(self, name: str) -> None:
        strides = (4, 8, 16, 32, 64, 128)
        net = pyramid(name, strides=strides, channels=48, extra="p6p7").eval()
        with torch.no_grad():
            assert_pyramid(net, strides, 48, 64, 96)
            assert_pyramid(pyramid(name, strides=(16,)).eval(), (16,), 32, 64, 64)

    @pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16), (4,)])
    def test_gradient_reaches_every_parameter(self, name: str, strides: tuple[int, ...]) -> None:
        net = pyramid(name, strides=strides).train()
        torch.stack([level.square().mean() for level in net(image(batch=2)).values()]).sum().backward()
        assert not [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]

    def test_building_changes_no_statistics(self, name: str) -> None:
        net = pyramid(name)
        assert net.training
        assert all(module.training for module in net.modules())
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.num_batches_tracked == 0


@pytest.mark.parametrize("name", ["resnet18", "resnet50", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet152",))])
def test_resnets_are_torchvisions(name: str) -> None:
    own = pyramid(name, strides=(4, 8, 16, 32, 64), channels=256, extra="pool").eval()
    other = resnet_fpn_backbone(backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d).eval()
    own.load_state_dict(other.state_dict())
    with torch.no_grad():
        for level, same in zip(own(image(96, 64)).values(), other(image(96, 64)).values(), strict=True):
            assert torch.equal(level, same)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2"])
def test_so_are_their_relatives(name: str) -> None:
    own, other = build_layers(name), get_model(name, weights=None)
    result = own.load_state_dict(other.state_dict(), strict=False)
    assert not result.missing_keys
    assert result.unexpected_keys == ["fc.weight", "fc.bias"]


def test_mobilenets_tensors_have_torchvisions_names() -> None:
    other = mobilenet_backbone(backbone_name="mobilenet_v3_small", weights=None, fpn=True, norm_layer=nn.BatchNorm2d)
    own = {name for name in pyramid("mobilenet_v3_small").state_dict() if name.startswith("body.")}
    assert own == {name for name in other.state_dict() if name.startswith("body.")}


class TestNorm:
    @pytest.mark.parametrize("name", ["resnet10", "mobilenet_v3_small", "regnet_x_400mf", "efficientnet_b0"])
    @pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("frozen", FrozenBatchNorm2d)])
    def test_every_layer_has_it(self, name: str, norm: Norm, kind: type[nn.Module]) -> None:
        net = build_layers(name, norm=norm)
        kinds = {type(module) for module in net.modules() if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | FrozenBatchNorm2d)}
        assert kinds == {kind}
        assert coarsest(net.eval()).isfinite().all()

    def test_frozen_layers_compute_as_the_ones_that_they_replace(self) -> None:
        own, frozen = build_layers("mobilenet_v3_small").eval(), build_layers("mobilenet_v3_small", norm="frozen").eval()
        for name, tensor in own.state_dict().items():
            if "running_var" in name:
                tensor.fill_(1e-3)  # so small that it matters what is added to it
        frozen.load_state_dict(own.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(coarsest(own), coarsest(frozen))


class TestWeights:
    @pytest.mark.parametrize("name", some(("resnet18", "mobilenet_v3_small", "regnet_y_400mf", "efficientnet_b0", "convnext_tiny")))
    def test_a_classifiers_are_loaded_but_for_its_classifier(self, name: str, tmp_path: Path) -> None:
        torch.manual_seed(0)
        other: Any = get_model(name, weights=None, num_classes=7).eval()
        torch.save(other.state_dict(), tmp_path / "w.pth")
        with torch.no_grad():
            assert torch.equal(coarsest(build_layers(name, weights=str(tmp_path / "w.pth")).eval()), self.features(name, other))

    def features(self, name: str, other: Any) -> Tensor:
        """What torchvision's classifier gives its pooling, but for EfficientNet, whose last convolution we leave out."""
        stages = {"resnet18": list(other.children())[:-2], "regnet_y_400mf": list(other.children())[:-2]}
        layers = stages.get(name) or list(other.features)[: -1 if name == "efficientnet_b0" else None]
        found: Tensor = nn.Sequential(*layers)(image())
        return found

    def test_named_ones_come_from_torchs_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        other = get_model("resnet18", weights=None)
        torch.save(
            other.state_dict(), tmp_path / "hub" / "checkpoints" / get_model_weights("resnet18")["IMAGENET1K_V1"].url.rsplit("/")[-1]
        )
        own = build_layers("resnet18", norm="frozen", weights="IMAGENET1K_V1").state_dict()
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in own.items())

    def test_a_file_may_be_of_any_width(self, tmp_path: Path) -> None:
        other = build_layers("resnet10", 16)
        torch.save(other.state_dict(), tmp_path / "w.pth")
        own = build_layers("resnet10", 16, weights=str(tmp_path / "w.pth")).state_dict()
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in own.items())
        with pytest.raises(ArtifactError, match=r"w\.pth: size mismatch .*, so they are for a different architecture"):
            build_layers("resnet10", 24, weights=str(tmp_path / "w.pth"))

    @pytest.mark.parametrize(
        ("name", "width", "norm", "weights", "message"),
        [
            (
                "resnet18",
                64,
                None,
                "IMAGENET1K_V2",
                r"no backbone_weights 'IMAGENET1K_V2' \(did you mean IMAGENET1K_V1\?\); choose from IMAG",
            ),
            ("resnet18", 32, None, "IMAGENET1K_V1", "need a torchvision backbone of width 64, not resnet18 of width 32"),
            ("resnet10", 64, None, "IMAGENET1K_V1", "need a torchvision backbone of width 64, not resnet10"),
            ("resnet18", 64, "group", "IMAGENET1K_V1", "were trained with batch normalization, not norm group"),
            ("convnext_tiny", 64, "batch", None, "norm batch: convnext_tiny has no batch normalization .*; set norm to null"),
        ],
    )
    def test_what_does_not_go_together_is_refused(
        self, name: str, width: int, norm: Norm | None, weights: str | None, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            build_layers(name, width, norm, weights)


class TestRefusals:
    @pytest.mark.parametrize("typo", ["resnet51", "convnext_tinny", "efficientnet-b0", "RESNET50"])
    def test_a_typo(self, typo: str) -> None:
        with pytest.raises(ValueError, match=rf"no backbone '{typo}'.*; choose from resnet10, .*, or timm:<name>"):
            pyramid(typo)
        with pytest.raises(ValueError, match=r"no backbone 'timm:resnet_18' \(did you mean resnet18\?\)"):
            pyramid("timm:resnet_18")

    @pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnext50_32x4d", "convnext_tiny", "timm:resnet18"])
    def test_a_width_where_there_is_but_one(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"width 32: {name} supports only width 64; the plain ResNets support others"):
            pyramid(name, width=32)

    @pytest.mark.parametrize(
        ("strides", "extra", "message"),
        [
            ((16, 8), "pool", "ascending choice of 4, 8, 16, 32, 64, 128"),
            ((8, 8), "pool", "ascending choice"),
            ((2, 4), "pool", "ascending choice"),
            ((64,), "pool", "at least one of 4, 8, 16, 32 is needed, which resnet10 has"),
            ((8, 64), "pool", "32 is needed for 64, which is made from it"),
            ((16, 32, 128), "p6p7", "above those, every stride up to 128 is needed"),
            ((32, 64, 128), "pool", "extra pool makes one level above 32; set extra to p6p7, which makes two"),
        ],
    )
    def test_strides_that_cannot_be(self, strides: tuple[int, ...], extra: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            pyramid("resnet10", width=8, strides=strides, extra=extra)


class TestTimm:
    def test_computes_as_timms_own(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        other: Any = timm.create_model("mobilenetv3_small_050", num_classes=5).eval()
        torch.save(other.state_dict(), tmp_path / "w.pth")
        own = pyramid("timm:mobilenetv3_small_050", strides=(8, 32), weights=str(tmp_path / "w.pth")).eval()
        with torch.no_grad():
            levels = own.body(image())
            blocks = other.forward_intermediates(image(), intermediates_only=True)
        assert list(levels) == ["8", "32"]
        assert torch.equal(levels["8"], blocks[2])
        assert torch.equal(levels["32"], blocks[4])

    def test_a_file_of_another_network_is_refused(self, tmp_path: Path) -> None:
        torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
        with pytest.raises(ArtifactError, match="so they are for a different architecture"):
            pyramid("timm:mobilenetv3_small_050", weights=str(tmp_path / "w.pth"))

    def test_weights_that_cannot_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreachable(*args: Any, **kwargs: Any) -> None:
            raise OSError("no route")

        monkeypatch.setattr("timm.models._builder.load_pretrained", unreachable)
        with pytest.raises(ValueError, match=r"no backbone_weights 'IMAGENET1K_V1' of timm:resnet18; use pretrained, or a file \(.pth"):
            pyramid("timm:resnet18", weights="IMAGENET1K_V1")
        with pytest.raises(ArtifactError, match=r"backbone_weights pretrained of timm:resnet18 are not available \(no route\)"):
            pyramid("timm:resnet18", weights="pretrained")

    def test_a_network_without_the_level_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one of 16 is needed, which timm:test_vit has"):
            pyramid("timm:test_vit", strides=(8,))

    def test_an_unknown_tag_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"no backbone 'timm:resnet18.nonexistent' .*see timm.list_pretrained"):
            pyramid("timm:resnet18.nonexistent", strides=(16,))

    def test_a_network_of_one_image_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match="timm:vit_tiny_patch16_224 does not accept images of 64 px"):
            pyramid("timm:vit_tiny_patch16_224", strides=(16,))

    def test_normalization_stays_its_own(self) -> None:
        with pytest.raises(ValueError, match="norm frozen: timm's backbones keep their own normalization; set norm to null"):
            pyramid("timm:resnet18", norm="frozen")

    def test_without_timm_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(ValueError, match=r'timm is not installed: pip install "edgedistill\[timm\]"'):
            pyramid("timm:resnet18")

    def test_unread_weights_are_not_needed(self) -> None:
        """Only their names count: the tensors are named as in networks without any."""
        for name, weights in (("timm:resnet18", "pretrained"), ("resnet18", "IMAGENET1K_V1")):
            made = pyramid(name, weights=Unread(weights))
            assert made.state_dict().keys() == pyramid(name).state_dict().keys()
