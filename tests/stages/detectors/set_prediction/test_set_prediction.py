"""RT-DETRv2, D-FINE, DEIMv2, LW-DETR and RF-DETR against transformers' own, and what becomes of given weights."""

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from detector_samples import TINY, decisions
from engine_samples import compiled
from safetensors.torch import load_file, save_file
from torch import Tensor

from deploy.contract import Heads, ModelContract
from deploy.errors import ArtifactError, ConfigError, DataError
from deploy.precision import fp16
from deploy.precision.proof import proof
from stages.config import DetectorConfig
from stages.detectors import Target
from stages.detectors.set_prediction import hub
from stages.detectors.set_prediction.denoising import DenoisingDetector
from stages.detectors.set_prediction.detector import SetPredictionDetector, as_label
from stages.detectors.set_prediction.groups import GroupQueryDetector
from stages.detectors.set_prediction.resampling import bicubic
from stages.exports.to_onnx import write_onnx
from stages.training.checkpoint import build_detector, check_origin

pytest.importorskip("transformers")

DENOISING = ("d_fine", "deimv2", "rt_detr_v2")
GROUPS = ("lw_detr", "rf_detr", "rf_detr masks")
NAMES = (*DENOISING, *GROUPS)
FORBIDDEN = {"NonZero", "NonMaxSuppression", "RoiAlign", "Loop", "If", "Scan", "SequenceAt", "Unique"}


def build(name: str, seed: int = 0, num_classes: int = 5, **options: Any) -> SetPredictionDetector:
    """A tiny detector; "rf_detr masks" is one with masks."""
    base, _, masks = name.partition(" ")
    choice = {"name": base, **({} if options.get("weights") else TINY[base]), **({"masks": True} if masks else {}), **options}
    detector = build_detector(DetectorConfig.model_validate(choice), num_classes, seed)
    assert isinstance(detector, SetPredictionDetector)
    return detector


def lively(detector: SetPredictionDetector) -> SetPredictionDetector:
    """The detector in eval mode with heads whose answers differ from query to query and class to class."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in detector.named_parameters():
        if "class_embed" in name or "bbox_embed" in name or "enc_score_head" in name or "enc_bbox_head" in name:
            parameter.data += torch.randn(parameter.shape, generator=generator) * (0.2 if parameter.ndim > 1 else 0.5)
            if parameter.shape == (5,):
                parameter.data -= parameter.data.mean() + 1
    return detector.eval()


def images(batch: int = 2) -> Tensor:
    """Noise of 96 x 128 px."""
    return torch.randn(batch, 3, 96, 128, generator=torch.Generator().manual_seed(5))


def some_targets() -> tuple[Target, Target]:
    """An image with two objects, and an empty one."""
    boxes = torch.tensor([[10.0, 12.0, 50.0, 60.0], [60.0, 60.0, 90.0, 94.0]])
    return Target(boxes, torch.tensor([1, 4])), Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def masked_targets() -> tuple[Target, ...]:
    """Two objects with masks in one image, none in the other."""
    found = []
    for target in some_targets():
        masks = torch.zeros(len(target.boxes), 96, 128, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, target.boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
        found.append(Target(target.boxes, target.labels, masks))
    return tuple(found)


def theirs(detector: SetPredictionDetector) -> Any:
    """transformers' whole model, with the detector's weights, its mode, and separate heads as the detector has them."""
    if isinstance(detector, GroupQueryDetector):
        model = copy.deepcopy(detector.model)
        if not detector.training:
            model.config.group_detr = 1  # transformers would match thirteen groups where there is one
        return model
    assert isinstance(detector, DenoisingDetector)
    kind = {"rt_detr_v2": "RTDetrV2", "d_fine": "DFine", "deimv2": "Deimv2"}[detector.config.model_type]
    model = getattr(hub.library(), f"{kind}ForObjectDetection")(copy.deepcopy(detector.config))
    model.model.load_state_dict(detector.network.state_dict())
    return model.train(detector.training)


@pytest.mark.parametrize("name", NAMES)
class TestAgainstTransformers:
    @pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
    def test_the_losses_sum_to_its_own(self, name: str, training: bool) -> None:
        detector = lively(build(name)).train(training)
        model = theirs(detector)
        torch.manual_seed(3)
        expected = model(images(), labels=[as_label(target, images()) for target in masked_targets()]).loss
        torch.manual_seed(3)
        losses = detector(images(), masked_targets()).losses
        torch.testing.assert_close(torch.stack(list(losses.values())).sum(), expected, rtol=1e-4, atol=1e-4)

    def test_predictions_are_its_own(self, name: str) -> None:
        detector = lively(build(name))
        with torch.no_grad():
            expected, outputs = theirs(detector)(images()), detector(images())
        torch.testing.assert_close(outputs.head["class_logits"][0], expected.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(outputs.head["boxes"][0], expected.pred_boxes, rtol=1e-4, atol=1e-5)
        if "masks" in name:
            torch.testing.assert_close(outputs.head["masks"][0], expected.pred_masks, rtol=1e-4, atol=1e-4)

    def test_the_graph_decides_as_its_image_processor(self, name: str) -> None:
        detector = lively(build(name))
        library = hub.library()
        processor = library.RfDetrImageProcessor() if "detr" in name and name != "rt_detr_v2" else library.RTDetrImageProcessor()
        with torch.no_grad():
            answer = detector.graph(decisions(max_detections=20, score_threshold=0.1)).eval()(images())
            outputs = theirs(detector)(images())
        expected = processor.post_process_object_detection(outputs, threshold=0.1, target_sizes=[(96, 128)] * 2)
        for index, one in enumerate(expected):
            count = len(one["scores"])
            assert 3 < count <= 20
            limit = torch.tensor([128.0, 96.0, 128.0, 96.0])
            torch.testing.assert_close(answer.scores[index, :count], one["scores"], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(answer.boxes[index, :count], one["boxes"].clamp(min=0).minimum(limit), rtol=1e-4, atol=1e-2)
            assert torch.equal(answer.labels[index, :count], one["labels"])
            assert not answer.scores[index, count:].any()


@pytest.mark.parametrize("name", NAMES)
class TestTraining:
    def test_every_parameter_learns_also_from_a_batch_without_objects(self, name: str) -> None:
        detector = build(name).train()
        empty = masked_targets()[1]
        losses = detector(images(), (empty, empty)).losses
        assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        assert not [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]

    def test_it_learns_in_half_precision(self, name: str) -> None:
        detector = build(name).train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = detector(images(), masked_targets()).losses
        assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()

    def test_only_constants_are_left_out_of_training(self, name: str) -> None:
        frozen = {n for n, p in build(name).named_parameters() if not p.requires_grad}
        assert frozen == ({"network.decoder.up", "network.decoder.reg_scale"} if name in ("d_fine", "deimv2") else set())

    def test_a_network_that_diverged_gives_losses_that_say_so(self, name: str) -> None:
        """By the same terms as ever: other processes wait for each of them."""
        detector = build(name).train()
        healthy = detector(images(), masked_targets()).losses
        for part in ("class_embed", ""):  # at the end of the network, and at its beginning
            broken = build(name).train()
            next(p for n, p in broken.named_parameters() if part in n and p.requires_grad).data.fill_(torch.nan)
            losses = broken(images(), masked_targets()).losses
            assert not torch.isfinite(torch.stack(list(losses.values()))).all(), part
            assert losses.keys() == healthy.keys(), part

    def test_no_two_tensors_share_memory_as_safetensors_files_need_it(self, name: str) -> None:
        places = [tensor.data_ptr() for tensor in build(name).state_dict().values() if tensor.numel()]
        assert len(places) == len(set(places))


@pytest.mark.parametrize("name", DENOISING)
@pytest.mark.parametrize(("asked", "perturbed"), [(None, 200), (7, 12), (1, 4)], ids=["default", "fewer", "as few as objects"])
def test_so_many_objects_are_perturbed(name: str, asked: int | None, perturbed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of two objects and their negatives: 100 // 2, 7 // 2, and one at least."""
    detector = build(name, denoising=asked).train()
    assert isinstance(detector, DenoisingDetector)
    taken: list[int] = []
    noise = detector._noise

    def watched(labels: list[Any]) -> Any:
        found = noise(labels)
        assert found is not None
        taken.append(found.features.shape[1])
        return found

    monkeypatch.setattr(detector, "_noise", watched)
    losses = detector(images(), some_targets()).losses
    assert taken == [perturbed]
    torch.stack(list(losses.values())).sum().backward()


def test_weights_are_trained_on_with_another_number_of_perturbed_objects(tmp_path: Path) -> None:
    folder = str(saved("d_fine", tmp_path))
    for asked, number in ((None, 100), (30, 30)):
        detector = build("d_fine", weights=folder, denoising=asked)
        assert isinstance(detector, DenoisingDetector)
        assert detector.config.num_denoising == number


def test_terms_are_averaged_by_the_objects_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.processes.num_processes", lambda: 2)
    monkeypatch.setattr("stages.processes.mean_over_processes", lambda value: value * 4)
    detector = build("d_fine")
    torch.manual_seed(0)
    spread = detector.eval()(images(), some_targets()).losses
    monkeypatch.undo()
    for name, loss in detector(images(), some_targets()).losses.items():
        torch.testing.assert_close(spread[name] * (1 if name.startswith("loss_ddf") else 4), loss)


def test_masks_must_be_there_to_be_learned() -> None:
    with pytest.raises(DataError, match="set its option masks to false"):
        build("rf_detr masks").train()(images(), some_targets())


class TestPositions:
    @pytest.mark.parametrize("antialias", [True, False])
    @pytest.mark.parametrize("size", [(14, 14), (6, 8), (3, 29), (37, 21)])
    def test_resizing_by_matrices_is_torchs_own(self, size: tuple[int, int], antialias: bool) -> None:
        grid = torch.randn(14, 14, 5, generator=torch.Generator().manual_seed(0))
        expected = torch.nn.functional.interpolate(grid.permute(2, 0, 1)[None], size=size, mode="bicubic", antialias=antialias)
        torch.testing.assert_close(bicubic(grid, *size, antialias=antialias), expected[0].permute(1, 2, 0), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("windows", [1, 2])
    def test_rf_detr_sees_square_images_as_transformers_does(self, windows: int) -> None:
        detector = build("rf_detr", windows=windows)
        given = hub.library().RfDetrForObjectDetection(detector.config).model.backbone.backbone.embeddings
        given.load_state_dict({**given.state_dict(), **embeddings(detector).state_dict()})
        torch.testing.assert_close(embeddings(detector)(images()[..., :96]), given(images()[..., :96]), rtol=1e-4, atol=1e-5)

    def test_rf_detrs_windows_hold_what_lies_together(self) -> None:
        detector: Any = build("rf_detr")
        whole, parts = (embeddings(build("rf_detr", windows=windows)) for windows in (1, 2))
        parts.load_state_dict(whole.state_dict())
        tokens = parts(images())
        rows = detector.model.model.backbone.backbone.window_unpartition(tokens[:, 1:], 96, 128).reshape(2, 48, -1)
        torch.testing.assert_close(rows, whole(images())[:, 1:])
        assert torch.equal(tokens[:, 0], tokens[:1, 0].expand(8, -1))


def embeddings(detector: Any) -> Any:
    return detector.model.model.backbone.backbone.embeddings


def saved(name: str, folder: Path, **changes: Any) -> Path:
    """A folder with a tiny model of 5 classes, as save_pretrained writes it, its configuration changed."""
    detector = lively(build(name))
    if isinstance(detector, GroupQueryDetector):
        model = type(detector.model)(detector.config)
        missing = model.load_state_dict(detector.model.state_dict(), strict=False).missing_keys
        assert all(one.endswith("mask_token") for one in missing)
    else:
        model = theirs(detector)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def contract(classes: tuple[str, ...] = ("a", "b", "c", "d", "e"), **pixels: Any) -> ModelContract:
    preprocessing = {"height": 96, "width": 128} | pixels
    return ModelContract.model_validate({"preprocessing": preprocessing, "classes": classes, "category_ids": range(len(classes))})


def answers(detector: SetPredictionDetector) -> Tensor:
    with torch.no_grad():
        return detector.eval().predict(images()).boxes


class TestGivenWeights:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_folder_gives_the_detector_that_was_saved(self, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        loaded = build(name, 7, weights=str(saved(name, tmp_path)))
        torch.testing.assert_close(answers(loaded), answers(lively(build(name))), rtol=1e-5, atol=1e-5)
        assert "re-initialized" not in capfd.readouterr().err

    def test_half_precision_files_become_float32(self, tmp_path: Path) -> None:
        folder = saved("rt_detr_v2", tmp_path)
        state = {
            key: value.half() if value.is_floating_point() else value for key, value in load_file(folder / "model.safetensors").items()
        }
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16", "torch_dtype": "float16"}))
        loaded = build("rt_detr_v2", weights=str(folder))
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        assert torch.isfinite(answers(loaded)).all()

    @pytest.mark.parametrize("name", NAMES)
    def test_class_layers_alone_start_anew_for_other_classes(self, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        loaded = build(name, 7, num_classes=3, weights=str(saved(name, tmp_path)))
        said = capfd.readouterr().err
        before, after = lively(build(name)).state_dict(), loaded.state_dict()
        assert before.keys() == after.keys()
        assert f"weights {tmp_path}: for 5 classes instead of 3, so these are re-initialized: " in said
        anew = {n for n in before if before[n].shape != after[n].shape}
        assert anew == {n for n in before if "class_embed" in n or "enc_score_head" in n}
        assert all(torch.equal(before[n], after[n]) for n in before.keys() - anew)
        named = set(said.partition("re-initialized: ")[2].strip().split(", "))
        assert len(named) >= 2
        assert all("class_embed" in n or "enc_score_head" in n for n in named)
        losses = loaded.train()(images(), tuple(Target(t.boxes, t.labels.clamp(max=2), t.masks) for t in masked_targets())).losses
        assert all(torch.isfinite(loss) for loss in losses.values())

    @pytest.mark.parametrize("name", DENOISING)
    def test_sizes_that_the_configuration_fixes_are_not_kept(self, name: str, tmp_path: Path) -> None:
        loaded = build(name, weights=str(saved(name, tmp_path, anchor_image_size=[64, 64])))
        torch.testing.assert_close(answers(loaded), answers(lively(build(name))), rtol=1e-5, atol=1e-5)

    def test_only_the_configuration_is_read_where_a_checkpoint_follows(self, tmp_path: Path) -> None:
        folder = saved("rt_detr_v2", tmp_path)
        (folder / "model.safetensors").unlink()
        choice = DetectorConfig.model_validate({"name": "rt_detr_v2", "weights": str(folder)})
        detector = build_detector(choice, 5, pretrained=False)
        assert {name: one.shape for name, one in detector.state_dict().items()} == {
            name: one.shape for name, one in build("rt_detr_v2").state_dict().items()
        }

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda state: state.pop("model.enc_output.0.weight"),
                r"lack tensor model\.enc_output\.0\.weight, so they are for a different",
            ),
            (lambda state: state.update(extra=torch.zeros(1)), "have an unknown tensor extra, so they are for a different"),
            (
                lambda state: state.update({"model.enc_output.0.weight": torch.zeros(8, 8)}),
                r"model\.enc_output\.0\.weight is \(8, 8\) instead of \(32, 32\)",
            ),
            (
                lambda state: state.update({"model.enc_score_head.bias": torch.zeros(4)}),
                r"enc_score_head\.bias is \(4,\) instead of \(5,\)",
            ),
        ],
        ids=["missing", "unknown", "of another shape", "class layer beside the configuration"],
    )
    def test_other_tensors_are_refused(self, change: Any, message: str, tmp_path: Path) -> None:
        file = saved("rt_detr_v2", tmp_path) / "model.safetensors"
        state = load_file(file)
        change(state)
        save_file(state, file, metadata={"format": "pt"})
        with pytest.raises(ArtifactError, match=message) as caught:
            build("rt_detr_v2", weights=str(tmp_path))
        assert "\n" not in str(caught.value)

    def test_another_kind_of_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="for a d_fine model, but this detector needs rt_detr_v2"):
            build("rt_detr_v2", weights=str(saved("d_fine", tmp_path)))

    def test_detection_weights_are_no_mask_weights(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="lack tensor"):
            build("rf_detr masks", weights=str(saved("rf_detr", tmp_path)))

    def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        file = saved("rt_detr_v2", tmp_path) / "model.safetensors"
        file.write_bytes(file.read_bytes()[:500])
        with pytest.raises(ArtifactError, match="cannot be read") as caught:
            build("rt_detr_v2", weights=str(tmp_path))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("weights", ["nobody/such-weights", "no/such/folder"])
    def test_what_neither_is_here_nor_comes_from_the_hub_is_said_in_one_line(self, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ArtifactError, match=f"weights {weights}: not a folder .* go online, or use") as caught:
            build("d_fine", weights=weights)
        assert "\n" not in str(caught.value)

    def test_pixels_of_the_weights_own_processor_are_compared_with_the_datas(self, tmp_path: Path) -> None:
        folder = saved("rt_detr_v2", tmp_path)
        hub.library().RTDetrImageProcessor().save_pretrained(folder)
        detector = build("rt_detr_v2", weights=str(folder))
        check_origin(detector, contract(mean=(0, 0, 0), std=(1, 1, 1)))
        with pytest.raises(ArtifactError, match=r"trained with data\.preprocessing\.mean \(0.0, 0.0, 0.0\), not \(0.485.*; set it to that"):
            check_origin(detector, contract())

    @pytest.mark.parametrize(
        ("changes", "pixels"),
        [
            ({}, {}),
            ({"do_rescale": False}, {"mean": (0.485 / 255, 0.456 / 255, 0.406 / 255), "std": (0.229 / 255, 0.224 / 255, 0.225 / 255)}),
            ({"rescale_factor": 2 / 255, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}, {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
        ],
    )
    def test_pixels_follow_from_the_processors_scale_and_shift(
        self, changes: dict[str, Any], pixels: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        folder = saved("lw_detr", tmp_path)
        hub.library().DeformableDetrImageProcessor(**changes).save_pretrained(folder)
        check_origin(build("lw_detr", weights=str(folder)), contract(**pixels))
        assert "nothing says" not in capfd.readouterr().err

    def test_without_a_processor_pixels_are_assumed_which_a_line_says(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        folder = saved("d_fine", tmp_path)
        check_origin(build("d_fine", weights=str(folder)), contract(mean=(0.5, 0.5, 0.5)))
        said = "nothing says with which mean and std they were trained; assumed to be those of data.preprocessing"
        assert f"weights {folder}: {said}\n" in capfd.readouterr().err

    def test_classes_are_compared_with_the_datas(self, tmp_path: Path) -> None:
        names = ("person", "motorbike", "traffic light", "sofa", "tvmonitor")
        labels = {str(index): name for index, name in enumerate(names)}
        folder = saved("rf_detr", tmp_path, id2label=labels, label2id={name: int(index) for index, name in labels.items()})
        detector = build("rf_detr", weights=str(folder))
        check_origin(detector, contract(("Person", "motorcycle", "traffic_light", "couch", "tv")))
        with pytest.raises(ArtifactError, match="class 3 is sofa in the weights and tv in the data; put the data's classes"):
            check_origin(detector, contract(("person", "motorcycle", "traffic light", "tv", "couch")))
        other = build("rf_detr", weights=str(folder), num_classes=2)
        check_origin(other, contract(("tv", "couch")))

    def test_sizes_beside_weights_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="bring their own sizes; leave out width, queries"):
            build("lw_detr", weights="some/where", width=32, queries=5)


@pytest.mark.parametrize("missing", ["transformers", "scipy"])
def test_the_missing_extra_is_named_with_its_pip_line(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "stages.detectors.set_prediction.hub.importlib.util.find_spec", lambda name: None if name == missing else found(name)
    )
    with pytest.raises(ConfigError, match=rf'{missing} is not installed: pip install "edgedistill\[transformers\]"'):
        build("rf_detr")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lw_detr", {"scales": (0.5, 2.0)}, "descending choice of 2.0, 1.0, 0.5"),
        ("lw_detr", {"scales": (3.0,)}, "descending choice"),
        ("deimv2", {"backbone": "dinov3_tiny"}, "backbone_scale is for HGNetV2"),
    ],
)
def test_options_that_do_not_go_together_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **options)


def test_more_queries_than_positions_are_refused_in_one_line() -> None:
    detector = build("lw_detr", queries=60)
    with pytest.raises(ConfigError, match="60 queries, but an image of 96 x 128 px has 48 positions"):
        detector(images())


@pytest.mark.parametrize("scales", [(2.0, 0.5), (2.0, 1.0, 0.5)])
def test_lw_detr_has_a_level_for_each_scale(scales: tuple[float, ...]) -> None:
    detector = build("lw_detr", scales=scales)
    outputs = detector(images(), some_targets())
    for level, stride in zip(outputs.pyramid, detector.strides, strict=True):
        assert level.shape == (2, 32, 96 // stride, 128 // stride)
    torch.testing.assert_close(outputs.head["class_logits"][0], theirs(detector)(images()).logits)


def test_deimv2_sees_through_a_vision_transformer() -> None:
    detector = build("deimv2", backbone="dinov3_tiny", backbone_scale=None)
    assert [tuple(level.shape[-2:]) for level in detector(images(1)).pyramid] == [(12, 16), (6, 8), (3, 4)]


GRAPH = decisions(max_detections=20, score_threshold=0.1)


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "masks": ("rf_detr masks", {}),
    "vision transformer": ("deimv2", {"backbone": "dinov3_tiny", "backbone_scale": None}),
    "three levels": ("lw_detr", {"scales": (2.0, 1.0, 0.5)}),
}
"""Graphs beside those that every detector is tested with."""


@pytest.fixture(scope="module", params=VARIANTS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SetPredictionDetector, Path, Heads]:
    name, options = VARIANTS[request.param]
    detector = lively(build(name, **options))
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return detector, file, write_onnx(detector.graph(GRAPH).eval(), (96, 128), file)


def run(file: Path, batch: Tensor) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": batch.numpy()}), strict=True))


def assert_same_sets(found: dict[str, Any], expected: dict[str, Any], atol: float) -> None:
    """Each detection of one answer is matched by one of the other's, of its class, box and score."""
    for index in range(len(expected["scores"])):
        free = list(range(len(found["scores"][index])))
        for place in np.flatnonzero(expected["scores"][index] > 0.1 + atol):
            distance = [
                np.abs(found["boxes"][index][other] - expected["boxes"][index][place]).max() / 128
                + abs(found["scores"][index][other] - expected["scores"][index][place])
                + 9 * (found["labels"][index][other] != expected["labels"][index][place])
                for other in free
            ]
            best = int(np.argmin(distance))
            assert distance[best] < atol, (index, place, distance[best])
            other = free.pop(best)
            if "masks" in expected:
                np.testing.assert_allclose(found["masks"][index][other], expected["masks"][index][place], atol=10 * atol)


@pytest.mark.parametrize("name", GROUPS)
def test_a_graph_takes_any_number_of_images(name: str) -> None:
    """Python code that reads the batch as a plain number would fix it."""
    graph = build(name).eval().graph(GRAPH).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(graph, (images(),), dynamic_shapes=({0: batch},), strict=False)
    (given,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    assert isinstance(given.meta["val"].shape[0], torch.SymInt)


@pytest.mark.slow
class TestOnnx:
    def test_onnx_runtime_answers_as_torch(self, exported: tuple[SetPredictionDetector, Path, Heads]) -> None:
        detector, file, _ = exported
        batch = torch.cat([images(3), torch.zeros(1, 3, 96, 128)])
        with torch.no_grad():
            answer = detector.graph(GRAPH).eval()(batch)
        expected = {name: value.numpy() for name, value in answer._asdict().items() if isinstance(value, Tensor)}
        found = run(file, batch)
        assert found["converged"].all()
        assert (expected["scores"] > 0.1).sum() > 10
        assert_same_sets(found, expected, 1e-3)
        assert_same_sets({name: value[2:3] for name, value in found.items()}, run(file, batch[2:3]), 1e-4)

    def test_no_operator_depends_on_data(self, exported: tuple[SetPredictionDetector, Path, Heads]) -> None:
        model = onnx.load(exported[1])
        kinds = {node.op_type for node in model.graph.node} | {node.op_type for f in model.functions for node in f.node}
        assert not kinds & FORBIDDEN
        assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx"}
        elements = {value.type.tensor_type.elem_type for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
        assert onnx.TensorProto.DOUBLE not in elements

    def test_half_precision_answers_alike(self, exported: tuple[SetPredictionDetector, Path, Heads], tmp_path: Path) -> None:
        _, file, heads = exported
        half = fp16.to_fp16(onnx.load(file), heads)
        found = proof(half, heads)
        assert found["convolutions_fp32"] == 0
        assert found["convolutions_fp16"] > 3
        assert found["products_fp32"] == 0 < found["products_fp16"]
        assert found["low_precision_after_head"] == 0
        onnx.save(half, tmp_path / "half.onnx")
        exact, rounded = run(file, images()), run(tmp_path / "half.onnx", images())
        # rounding may let the encoder propose another of two alike positions
        assert np.median(np.abs(np.sort(exact["scores"]) - np.sort(rounded["scores"]))) < 0.01

    def test_tensorrt_for_rtx_builds_it(self, exported: tuple[SetPredictionDetector, Path, Heads], tmp_path: Path) -> None:
        pytest.importorskip("tensorrt_rtx")
        _, file, heads = exported
        found = compiled("trt_rtx", file, tmp_path, "fp16", heads=heads, options={"compute_capability": "8.9"}).proof
        assert found["convolutions_fp32"] == found["products_fp32"] == 0 < found["products_fp16"]
        assert found["low_precision_after_head"] == 0
