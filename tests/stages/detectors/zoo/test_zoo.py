"""MMDetection's files: what is detected with them, what of them is read, and what is refused."""

import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import zoo_samples
from torch import Tensor, nn

from deploy.contract import ModelContract, Preprocessing
from deploy.errors import ArtifactError, ConfigError
from stages.config import DetectorConfig
from stages.detectors import Detector, GraphOptions
from stages.detectors.backbones.pretrained import Origin, origin
from stages.detectors.boxes.coding import clip
from stages.detectors.zoo.layout import IMAGENET, RESNETS, ZooLayout, translated, zoo_file
from stages.training.checkpoint import build_detector, check_origin

NEAR_PX, NEAR_SCORE, NEAR_MASK = 0.01, 1e-4, 2e-3


def built(kind: str, file: Path, *, num_classes: int = zoo_samples.NUM_CLASSES, **options: Any) -> Detector:
    choice = DetectorConfig.model_validate({**zoo_samples.KINDS[kind], "weights": str(file), **options})
    return build_detector(choice, num_classes).eval()


def refused(kind: str, file: Path, **options: Any) -> str:
    with pytest.raises((ArtifactError, ConfigError)) as error:
        built(kind, file, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", zoo_samples.KINDS)
@torch.no_grad()
def test_a_file_loads_completely_and_its_network_detects_what_mmdetection_does(kind: str, tmp_path: Path) -> None:
    detector = built(kind, zoo_samples.write(tmp_path / f"{kind}.pth", zoo_samples.state_dict(kind)))
    theirs = zoo_samples.answers(kind)
    limits = float(theirs["score_threshold"]), float(theirs["iou_threshold"])
    found = detector.graph(GraphOptions(100, 1000, *limits, 1000))(zoo_samples.image())
    for index in range(2):
        boxes, scores, labels = (torch.from_numpy(theirs[f"{name}_{index}"]) for name in ("boxes", "scores", "labels"))
        boxes = clip(boxes, *zoo_samples.SIZE)  # those of YOLOX and Grid R-CNN may leave the image
        assert len(boxes) == int((found.scores[index] > 0).sum())
        apart = torch.cdist(boxes, found.boxes[index, : len(boxes)], p=float("inf"))
        alike = (labels[:, None] == found.labels[index, : len(boxes)]) & (
            (scores[:, None] - found.scores[index, : len(boxes)]).abs() < NEAR_SCORE
        )
        near, place = torch.where(alike, apart, torch.inf).min(dim=1)
        assert near.max() < NEAR_PX
        assert len(place.unique()) == len(boxes)
        if found.masks is not None:
            masks = torch.from_numpy(theirs[f"masks_{index}"]).float()
            assert (found.masks[index, place[: len(masks)]] - masks).abs().max() < NEAR_MASK


@pytest.fixture
def state() -> dict[str, Tensor]:
    return zoo_samples.state_dict("atss")


@pytest.fixture
def mmengine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Any]]:
    """A library that exists while a file is written and not when it is read, with the class of its histories."""

    class HistoryBuffer:
        methods: Mapping[str, Any]

        def smallest(self) -> None:
            pytest.fail("run")

        def __setstate__(self, state: object) -> None:
            pytest.fail("run")

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    HistoryBuffer.smallest.__qualname__ = "HistoryBuffer.smallest"
    HistoryBuffer.smallest.__module__ = HistoryBuffer.__module__
    names = ("mmengine", "mmengine.logging", HistoryBuffer.__module__)
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[HistoryBuffer.__module__], "HistoryBuffer", HistoryBuffer, raising=False)
    yield HistoryBuffer
    assert not any(name in sys.modules for name in names), "imported"


class TestPickles:
    @pytest.mark.parametrize("legacy", [False, True])
    def test_the_histories_that_mmengine_keeps_are_read_without_it(
        self, tmp_path: Path, state: dict[str, Tensor], mmengine: type[Any], *, legacy: bool
    ) -> None:
        history = mmengine()
        history.values, history.methods = np.array([1.5, 2.5]), {"min": mmengine.smallest}
        hub = {"log_scalars": {"train/loss": history}, "runtime_info": {"best": np.float64(0.5), "file": Path("last.pth")}}
        file = zoo_samples.write(
            tmp_path / "epoch_12.pth", state, legacy=legacy, message_hub=hub, optimizer={"param_groups": [{"lr": 0.1}]}
        )
        assert b"HistoryBuffer" in file.read_bytes()
        for name in [name for name in sys.modules if name.startswith("mmengine")]:
            del sys.modules[name]
        detector = built("atss", file)
        torch.testing.assert_close(detector.get_parameter("model.backbone.body.conv1.weight").data, state["backbone.conv1.weight"])

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("disguise", ["called", "method", "torch"])
    def test_a_pickle_that_would_run_code_runs_nothing(
        self, tmp_path: Path, state: dict[str, Tensor], disguise: str, *, legacy: bool
    ) -> None:
        trace = tmp_path / "ran"

        class Harmful:
            def __reduce__(self) -> tuple[Any, ...]:
                call = {
                    "called": (exec, (f"open({str(trace)!r}, 'w')",)),
                    "method": (trace.touch, ()),
                    "torch": (torch.load, (str(trace),)),
                }
                found: tuple[Any, ...] = call[disguise]
                return found

        trace_of = {"called": "builtins.exec|__builtin__.exec", "method": "pathlib", "torch": "torch.serialization.load"}
        file = zoo_samples.write(tmp_path / "w.pth", state, legacy=legacy, message_hub=Harmful())
        said = refused("atss", file)
        assert re.search(rf"weights {file}: not a readable state dict", said)
        assert disguise == "method" or re.search(rf"it names ({trace_of[disguise]}), which is code and not data, and nothing was run", said)
        assert not trace.exists()

    def test_a_pickle_of_a_protocol_that_hides_its_names(self, tmp_path: Path) -> None:
        trace = tmp_path / "ran"
        (tmp_path / "w.pth").write_bytes(pickle.dumps(nn.Conv2d(1, 1, 1), protocol=4) + pickle.dumps(trace, protocol=4) * 3)
        assert "not a readable state dict (pickled with protocol 4 instead of 2" in refused("atss", tmp_path / "w.pth")


class TestNames:
    def test_what_surrounds_the_network_is_left_out(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        more = {"ema_backbone_conv1_weight": torch.ones(1), "data_preprocessor.mean": torch.ones(3)}
        file = zoo_samples.write(tmp_path / "w.pth", {f"module.{name}": value for name, value in state.items()} | more)
        built("atss", file)

    def test_counters_of_batches_may_be_absent(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        built("atss", zoo_samples.write(tmp_path / "w.pth", {name: value for name, value in state.items() if "num_batches" not in name}))

    def test_normalization_may_be_frozen(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        found = built("atss", zoo_samples.write(tmp_path / "w.pth", state), norm="frozen").state_dict()
        assert torch.equal(found["model.backbone.body.bn1.running_var"], state["backbone.bn1.running_var"])

    def test_damage_inside_is_one_line(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        file = zoo_samples.write(tmp_path / "w.pth", state)
        content = bytearray(file.read_bytes())
        content[content.index(b"data.pkl") + 20 : content.index(b"data.pkl") + 200] = b"\xff" * 180
        file.write_bytes(content)
        assert f"weights {file}: not a readable state dict" in refused("atss", file)

    @pytest.mark.parametrize("kind", zoo_samples.KINDS)
    def test_no_tensor_may_be_missing_or_left_over(self, tmp_path: Path, kind: str) -> None:
        state = zoo_samples.state_dict(kind)
        gone = next(name for name in state if "head" in name)
        less = zoo_samples.write(tmp_path / "less.pth", {name: value for name, value in state.items() if name != gone})
        assert "lack tensor" in refused(kind, less)
        more = zoo_samples.write(tmp_path / "more.pth", state | {"bbox_head.extra.weight": torch.ones(1)})
        assert "have an unknown tensor bbox_head.extra.weight" in refused(kind, more)

    def test_boxes_that_all_classes_share(self, tmp_path: Path) -> None:
        state = zoo_samples.state_dict("dynamic_rcnn")
        shared = {name: value[:4] if "fc_reg" in name else value for name, value in state.items()}
        said = refused("dynamic_rcnn", zoo_samples.write(tmp_path / "w.pth", shared))
        assert "fc_reg.weight is for boxes or masks that all classes share, or do not, so they are" in said

    def test_masks_that_the_detector_lacks(self, tmp_path: Path) -> None:
        file = zoo_samples.write(tmp_path / "w.pth", zoo_samples.state_dict("cascade_mask_rcnn"))
        assert "have an unknown tensor roi_head.mask_head" in refused("cascade_rcnn", file)

    def test_another_backbone_is_named(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        said = refused("atss", zoo_samples.write(tmp_path / "w.pth", state), backbone="resnet34")
        assert "(MMDetection's, on resnet18) lack tensor" in said

    @pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn", "mask_rcnn"])
    def test_a_form_of_torchvisions_says_which_form_fits(self, tmp_path: Path, kind: str) -> None:
        file = zoo_samples.write(tmp_path / "w.pth", zoo_samples.state_dict(kind))
        assert "set version to mmdet" in refused(kind, file, version=1)

    def test_fcos_in_its_other_form(self, tmp_path: Path) -> None:
        file = zoo_samples.write(tmp_path / "w.pth", zoo_samples.state_dict("fcos"))
        assert "lack tensor" in refused("fcos_normbbox", file)
        assert "set version to mmdet" in refused("fcos", file, version="torchvision")


def with_meta(file: Path, state: Mapping[str, Tensor], **meta: object) -> Path:
    return zoo_samples.write(file, state, meta=meta)


def configured(*changes: tuple[str, str]) -> str:
    """A configuration, with parts of its text replaced."""
    text = """
max_epochs = 12
model = dict(
    type='ATSS',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(type='ResNet', depth=18, norm_cfg=dict(type='BN', requires_grad=True), style='pytorch'),
    neck=dict(type='FPN', start_level=1, add_extra_convs='on_output', num_outs=5),
    bbox_head=dict(
        type='ATSSHead', norm_cfg=dict(type='GN', num_groups=4, requires_grad=True),
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2])),
    train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9)))
"""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


class TestConfigurations:
    @pytest.mark.parametrize("key", ["cfg", "config"])
    def test_the_published_one_fits(self, tmp_path: Path, state: dict[str, Tensor], key: str) -> None:
        built("atss", with_meta(tmp_path / "w.pth", state, **{key: configured()}, CLASSES=zoo_samples.CLASSES))

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("'pytorch'", "'caffe'", "model.backbone.style caffe, while this network needs pytorch; use weights of the pytorch style"),
            ("bgr_to_rgb=True", "bgr_to_rgb=False", "model.data_preprocessor.bgr_to_rgb False"),
            ("[123.675", "[102.9801", "model.data_preprocessor.mean"),
            ("num_groups=4", "num_groups=32", "bbox_head.norm_cfg.num_groups 32, while this network needs 4; use weights"),
            (", norm_cfg=dict(type='GN', num_groups=4, requires_grad=True)", "", "bbox_head.norm_cfg.num_groups 32, while this network"),
            ("num_outs=5", "norm_cfg=dict(type='GN', num_groups=32)", "neck.norm_cfg.num_groups 32, while this network needs 4"),
            ("octave_base_scale=8", "octave_base_scale=4", "octave_base_scale 4, while this network needs 8.0; set anchor_scale to this"),
            ("'on_output'", "'on_input'", "add_extra_convs on_input"),
            ("target_stds=[0.1", "target_stds=[1.0", "target_stds"),
            ("type='ATSS'", "type='GFL'", "MMDetection's network GFL, while this detector takes ATSS; choose the detector that it is for"),
        ],
    )
    def test_another_is_refused_with_what_differs(self, tmp_path: Path, state: dict[str, Tensor], old: str, new: str, said: str) -> None:
        file = with_meta(tmp_path / "w.pth", state, cfg=configured((old, new)))
        assert said in refused("atss", file)

    @pytest.mark.parametrize(
        ("pixels", "said"),
        [
            ("mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True", None),
            (
                "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=False",
                "bgr_to_rgb False, while this network needs True",
            ),
            ("mean=[103.53, 116.28, 123.675], std=[58.395, 57.12, 57.375], to_rgb=True", "model.data_preprocessor.mean [103.53"),
            ("mean=[123.675, 116.28, 103.53], std=[57.375, 57.12, 58.395], to_rgb=True", "model.data_preprocessor.std [57.375"),
        ],
    )
    def test_version_2_has_pixels_in_another_place(self, tmp_path: Path, state: dict[str, Tensor], pixels: str, said: str | None) -> None:
        text = re.sub(r"data_preprocessor=dict\(.*?\),\n", "", configured()) + f"img_norm_cfg = dict({pixels})\n"
        assert "data_preprocessor" not in text
        file = with_meta(tmp_path / "w.pth", state, config=text)
        if said is None:
            built("atss", file)
        else:
            assert said in refused("atss", file)

    def test_of_files_that_are_based_on_others_the_last_has_the_pixels(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        pixels = "img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb={})\n"
        base = re.sub(r"data_preprocessor=dict\(.*?\),\n", "", configured()) + pixels.format(True)
        own = "model = dict(backbone=dict(depth=18))\n"
        built("atss", with_meta(tmp_path / "w.pth", state, config=base + own))
        assert "bgr_to_rgb False" in refused("atss", with_meta(tmp_path / "w.pth", state, config=base + own + pixels.format(False)))

    def test_what_is_no_plain_value_is_not_run(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        trace = tmp_path / "ran"
        text = configured(("type='ATSSAssigner'", f"type=open({str(trace)!r}, 'w')"))
        built("atss", with_meta(tmp_path / "w.pth", state, cfg=text))
        assert not trace.exists()

    @pytest.mark.parametrize("text", ["model = (", "model = 3", "", "model = dict(**other)"])
    def test_one_that_cannot_be_read_is_as_if_absent(self, tmp_path: Path, state: dict[str, Tensor], text: str) -> None:
        built("atss", with_meta(tmp_path / "w.pth", state, cfg=text))

    def test_the_caffe_style_without_a_configuration(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        assert "caffe style (its name says so)" in refused("atss", zoo_samples.write(tmp_path / "atss_r50_caffe.pth", state))
        folded = {name: torch.zeros_like(value) if name.endswith("running_mean") else value for name, value in state.items()}
        assert "caffe style (its means are all 0)" in refused("atss", zoo_samples.write(tmp_path / "w.pth", folded))

    def test_version_1(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        said = "written by MMDetection 1.2.0+6bf8ba3"
        assert said in refused("atss", with_meta(tmp_path / "w.pth", state, mmdet_version="1.2.0+6bf8ba3"))
        upgraded = with_meta(tmp_path / "upgraded.pth", state, mmdet_version="1.2.0", config=configured())
        built("atss", upgraded)
        old = {name.removeprefix("roi_head."): value for name, value in zoo_samples.state_dict("faster_rcnn").items()}
        assert "written by MMDetection 1, " in refused("faster_rcnn", zoo_samples.write(tmp_path / "old.pth", old, meta={}))


def contract(classes: tuple[str, ...], **preprocessing: Any) -> ModelContract:
    return ModelContract(
        classes=classes, category_ids=tuple(range(len(classes))), preprocessing=Preprocessing(height=96, width=128, **preprocessing)
    )


class TestYolox:
    """Its configuration has a backbone and pixels of its own."""

    TEXT = """
model = dict(
    type='YOLOX',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.125, spp_kernal_sizes=(5, 9, 13), act_cfg=dict(type='Swish')),
    neck=dict(type='YOLOXPAFPN', in_channels=[32, 64, 128], out_channels=32, num_csp_blocks=1),
    bbox_head=dict(type='YOLOXHead', num_classes=5, in_channels=32, feat_channels=32))
"""

    def said(self, folder: Path, old: str, new: str) -> str:
        assert old in self.TEXT
        state = zoo_samples.state_dict("yolox")
        return refused("yolox", with_meta(folder / "w.pth", state, cfg=self.TEXT.replace(old, new)))

    def test_the_published_configuration_fits(self, tmp_path: Path) -> None:
        built("yolox", with_meta(tmp_path / "w.pth", zoo_samples.state_dict("yolox"), cfg=self.TEXT))

    def test_another_is_refused_with_what_differs(self, tmp_path: Path) -> None:
        assert "deepen_factor 0.67, while this network needs 0.33; set depth to this" in self.said(tmp_path, "=0.33", "=0.67")
        assert "widen_factor 0.5, while this network needs 0.125; set width to this" in self.said(tmp_path, "=0.125", "=0.5")
        scaled = "data_preprocessor.std [255.0, 255.0, 255.0]"
        assert scaled in self.said(tmp_path, "pad_size_divisor=32", "std=[255.0, 255.0, 255.0]")
        assert "bgr_to_rgb True" in self.said(tmp_path, "pad_size_divisor=32", "bgr_to_rgb=True")

    def test_a_file_for_another_size_is_named_by_its_width(self, tmp_path: Path) -> None:
        file = zoo_samples.write(tmp_path / "w.pth", zoo_samples.state_dict("yolox"))
        assert "(MMDetection's, on a CSPDarknet of width 0.125): size mismatch" in refused("yolox", file, width=0.25)

    def test_its_backbone_has_no_styles(self, tmp_path: Path) -> None:
        state = {name: value * 0 if name.endswith("running_mean") else value for name, value in zoo_samples.state_dict("yolox").items()}
        built("yolox", zoo_samples.write(tmp_path / "w.pth", state))

    def test_its_pixels_are_blue_first_and_not_scaled(self, tmp_path: Path) -> None:
        detector = built("yolox", zoo_samples.write(tmp_path / "w.pth", zoo_samples.state_dict("yolox")))
        scale = 0.00392157  # as people write it
        check_origin(detector, contract(zoo_samples.CLASSES, color="bgr", mean=(0, 0, 0), std=(scale, scale, scale)))
        with pytest.raises(ArtifactError, match=r"data.preprocessing.color bgr, not rgb"):
            check_origin(detector, contract(zoo_samples.CLASSES))
        with pytest.raises(ArtifactError, match=r"data.preprocessing.std \(0.0039"):
            check_origin(detector, contract(zoo_samples.CLASSES, color="bgr", mean=(0, 0, 0), std=(1, 1, 1)))


def test_points_of_another_width(tmp_path: Path) -> None:
    text = "model = dict(type='GridRCNN', roi_head=dict(type='GridRoIHead', grid_head=dict(type='GridHead', point_feat_channels=64)))"
    file = with_meta(tmp_path / "w.pth", zoo_samples.state_dict("grid_rcnn"), cfg=text)
    assert "point_feat_channels 64, while this network needs 8; set point_channels to this" in refused("grid_rcnn", file)
    built("grid_rcnn", with_meta(tmp_path / "w.pth", zoo_samples.state_dict("grid_rcnn"), cfg=text.replace("64", "8")))


class TestClasses:
    def test_the_files_are_remembered_and_compared_with_the_datas(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        file = zoo_samples.write(tmp_path / "w.pth", state)
        detector = built("atss", file)
        assert origin(detector) == Origin(str(file), zoo_samples.CLASSES, IMAGENET)
        check_origin(detector, contract(("Apple", "pear", "plum", "fig", "nut")))
        with pytest.raises(ArtifactError, match=r"class 1 is pear in the weights and fig in the data"):
            check_origin(detector, contract(("apple", "fig", "plum", "pear", "nut")))

    def test_those_that_name_none_are_assumed(self, tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]) -> None:
        detector = built("atss", zoo_samples.write(tmp_path / "w.pth", state, meta=None))
        assert "the file names no classes; assumed to be the data's, in the same order" in capsys.readouterr().err
        check_origin(detector, contract(("a", "b", "c", "d", "e")))

    @pytest.mark.parametrize("kind", zoo_samples.KINDS)
    def test_another_number_leaves_the_class_layers_fresh(self, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
        state = zoo_samples.state_dict(kind)
        detector = built(kind, zoo_samples.write(tmp_path / "w.pth", state), num_classes=3)
        said = capsys.readouterr().err
        assert "for a different number of classes, so these are re-initialized: " in said
        found = origin(detector)
        assert found is not None
        check_origin(detector, contract(("x", "y", "z"), **found.pixels))

    def test_images_must_be_normalized_as_the_network_learned_them(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        detector = built("atss", zoo_samples.write(tmp_path / "w.pth", state))
        with pytest.raises(ArtifactError, match=r"data.preprocessing.mean"):
            check_origin(detector, contract(zoo_samples.CLASSES, mean=(0.5, 0.5, 0.5)))


def test_a_detector_may_bring_a_backbone_and_pixels_of_its_own(state: dict[str, Tensor]) -> None:
    own = ZooLayout(("ATSS",), ((r"backbone\.", "mine."), (r"neck\.", "between.")), constant=(), pixels={"color": "bgr"})
    content = {"state_dict": state, "meta": {"cfg": configured(("'pytorch'", "'caffe'"), ("bgr_to_rgb=True", "bgr_to_rgb=False"))}}
    found = zoo_file("w.pth", content)
    assert found is not None
    names = translated(found, own, "weights w.pth")
    assert "mine.conv1.weight" in names
    assert not any(name.startswith(("backbone.", "neck.")) for name in names)
    with pytest.raises(ArtifactError, match="caffe"):
        translated(found, ZooLayout(own.kinds, own.names, constant=RESNETS), "weights w.pth")


def test_detectors_without_such_a_form_refuse_the_file(tmp_path: Path) -> None:
    file = zoo_samples.write(tmp_path / "w.pth", zoo_samples.state_dict("atss"))
    with pytest.raises(ArtifactError, match="MMDetection's names of tensors, which this form of the detector does not have"):
        build_detector(DetectorConfig.model_validate({"name": "ssdlite", "weights": str(file)}), 5)
