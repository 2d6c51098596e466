"""Deformable convolutions: both of their forms, and backbones that have them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detector_samples import TINY
from oracle_samples import answers, filled, image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model

from deploy import plugins
from deploy.errors import ArtifactError, ConfigError
from stages.config import DetectorConfig
from stages.detectors.backbones.catalog import build_layers
from stages.detectors.backbones.deformable import Deformable, DeformableConvolution, Places, convolve, deployed
from stages.detectors.backbones.pyramid import PyramidBackbone
from stages.training.checkpoint import build_detector

DEFORMED = [name for name in plugins.names("stages.detectors") if "deformable" in plugins.schema("stages.detectors", name).model_fields]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("height", "width", "stride"), [(7, 10, 1), (7, 10, 2), (8, 6, 2), (1, 1, 1), (1, 5, 2)])
def test_the_deployed_form_computes_what_torchvisions_operator_does(
    height: int, width: int, stride: int, groups: int, *, factors: bool
) -> None:
    """Offsets reach far beyond the edges; two convolutions of other features share them."""
    features = [noise(2, 8, height, width), noise(2, 8, height, width, seed=1)]
    out = -(-height // stride), -(-width // stride)
    offsets = 3 * noise(2, 18, *out, seed=2)
    offsets[:, :4] = offsets[:, :4].round()  # whole positions, where both neighbours' weights are 0 or 1
    places = Places(offsets, offsets, noise(2, 9, *out, seed=3).sigmoid() if factors else None, stride)
    kernels = [noise(12, 8 // groups, 3, 3, seed=4), noise(4, 8 // groups, 3, 3, seed=5)]
    expected = convolve(features, places, kernels)
    with deployed() as samplings:
        found = convolve(features, places, kernels)
    assert len(samplings) == 1
    assert samplings[0].predicted is offsets
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_without_offsets_it_is_the_plain_convolution() -> None:
    plain = nn.Conv2d(8, 12, 3, 2, 1, groups=4, bias=False)
    features = noise(2, 8, 9, 12)
    for version, factor in ((1, 1.0), (2, 0.5)):
        layer = DeformableConvolution(plain, version)  # type: ignore[arg-type]
        expected = factor * plain(features)
        torch.testing.assert_close(layer(features), expected)
        with deployed():
            torch.testing.assert_close(layer(features), expected)


def test_places_are_never_rounded_to_half_precision() -> None:
    layer = DeformableConvolution(nn.Conv2d(8, 8, 3, 1, 1, bias=False), 1)
    nn.init.normal_(layer.conv_offset.weight, std=0.1)
    assert layer.conv_offset.bias is not None
    nn.init.constant_(layer.conv_offset.bias, 300.0)  # bfloat16 has steps of 2 there
    features = noise(1, 8, 4, 400)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = layer.conv_offset(features)
        found = layer(features)
    expected = convolve((features,), Places(predicted, predicted.float()), (layer.weight,))[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", DEFORMED)
def test_every_detector_on_a_resnet_trains_with_it(name: str) -> None:
    options = {**TINY[name], "deformable": (4, 5), "deformable_version": 2}
    detector = build_detector(DetectorConfig.model_validate({"name": name, **options}), 3)
    layers = [key for key, module in detector.named_modules() if isinstance(module, DeformableConvolution)]
    assert [".".join(key.split(".")[-3:]) for key in layers] == ["layer3.0.conv2", "layer4.0.conv2"]
    pyramid = detector(image(1, (64, 96))).pyramid
    torch.stack([level.square().mean() for level in pyramid]).sum().backward()
    for key in layers:
        grad = detector.get_submodule(key).get_submodule("conv_offset").get_parameter("weight").grad
        assert grad is not None
        assert grad.any()


@pytest.mark.parametrize("key", ["resnet50/1", "resnet50/2", "resnext50_32x4d/1"])
def test_a_backbone_computes_what_an_independent_implementation_does(key: str) -> None:
    """Weights follow from the names of tensors, which are the same there."""
    name, version = key.split("/")
    every = 32 if name.startswith("resnext") else 8
    layers = filled(build_layers(name, 8 if name == "resnet50" else 64, deformable=Deformable((3, 4, 5), int(version))))  # type: ignore[arg-type]
    with torch.no_grad():
        features = image()
        for child_name, child in layers.named_children():
            features = child(features)
            stride = {"layer2": 8, "layer3": 16, "layer4": 32}.get(child_name)
            if stride is not None:
                wanted = answers("deformable")[f"{key}/{stride}"]
                torch.testing.assert_close(features[:, ::every, ::2, ::2], wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.slow
def test_reppoints_largest_published_form_has_as_many_parameters() -> None:
    options = {"name": "reppoints", "backbone": "resnext101_32x4d", "deformable": (3, 4, 5)}
    number = sum(parameter.numel() for parameter in build_detector(DetectorConfig.model_validate(options), 80).parameters())
    assert number == int(answers("deformable")["reppoints_x101/parameters"])
    assert number / 1e6 == pytest.approx(58.0, abs=0.05)


def test_a_classifiers_weights_fill_it_and_offsets_start_at_zero(tmp_path: Path) -> None:
    other = get_model("resnet18", weights=None)
    torch.save(other.state_dict(), tmp_path / "w.pth")
    own = build_layers("resnet18", weights=str(tmp_path / "w.pth"), deformable=Deformable((5,))).state_dict()
    assert torch.equal(own["layer4.1.conv2.weight"], other.state_dict()["layer4.1.conv2.weight"])
    assert not own["layer4.1.conv2.conv_offset.weight"].any()


def test_a_file_with_some_of_the_offsets_is_refused(tmp_path: Path) -> None:
    state = build_layers("resnet10", 8, deformable=Deformable((5,))).state_dict()
    torch.save(state, tmp_path / "w.pth")
    same = build_layers("resnet10", 8, None, str(tmp_path / "w.pth"), Deformable((5,)))
    assert all(torch.equal(tensor, state[name]) for name, tensor in same.state_dict().items())
    with pytest.raises(ArtifactError, match=r"lack tensor layer3\.0\.conv2\.conv_offset\.weight"):
        build_layers("resnet10", 8, None, str(tmp_path / "w.pth"), Deformable((4, 5)))
    with pytest.raises(ArtifactError, match=r"size mismatch for layer4\.0\.conv2\.conv_offset\.weight"):
        build_layers("resnet10", 8, None, str(tmp_path / "w.pth"), Deformable((5,), 2))


@pytest.mark.parametrize(
    ("name", "stages", "strides", "message"),
    [
        ("mobilenet_v3_small", (5,), (8, 16, 32), r"deformable \[5\]: mobilenet_v3_small has no such convolutions; use a ResNet"),
        ("timm:resnet18", (5,), (8, 16, 32), r"deformable \[5\]: timm:resnet18 has no such convolutions"),
        ("resnet10", (5, 4), (8, 16, 32), r"deformable \[5, 4\]: use an ascending choice of 3, 4 and 5"),
        ("resnet10", (4, 5), (8, 16), r"deformable \[4, 5\]: strides \(8, 16\) need no stage 5, whose stride is 32; leave it out"),
    ],
)
def test_what_cannot_be_is_refused(name: str, stages: tuple[int, ...], strides: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PyramidBackbone(name, 64, None, 32, strides, None, deformable=Deformable(stages))


def test_torchvisions_mobile_pyramid_refuses_it() -> None:
    options: dict[str, Any] = {"name": "faster_rcnn", "backbone": "mobilenet_v3_large", "deformable": (5,)}
    with pytest.raises(ConfigError, match="mobilenet_v3_large has no such convolutions"):
        build_detector(DetectorConfig.model_validate(options), 3)


def test_its_products_count_as_those_of_the_plain_convolution() -> None:
    counts = []
    for stages in ((), (5,)):
        layers = build_layers("resnet10", 8, deformable=Deformable(stages)).eval()
        for module in layers.modules():
            if isinstance(module, DeformableConvolution):
                module.conv_offset = _Nothing()  # type: ignore[assignment]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            nn.Sequential(*layers.children())(torch.zeros(1, 3, 64, 64))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


class _Nothing(nn.Module):
    """Offsets of 0, without products."""

    def forward(self, features: Tensor) -> Tensor:
        return features.new_zeros(len(features), 18, *features.shape[-2:])
