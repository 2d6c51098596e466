"""Our own one-stage detectors against an independent implementation's answers: networks, losses, detections."""

from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_samples import Arrays, by_onnx, by_torch, difference, unpadded
from detector_samples import TINY, confident, decisions
from engine_samples import compiled
from oracle_samples import answers, filled, group, image, random
from torch import Tensor, nn

from deploy import plugins
from deploy.errors import ArtifactError, ConfigError
from stages.config import DetectorConfig
from stages.detectors import GraphOptions, Outputs
from stages.detectors.boxes.coding import clip
from stages.detectors.dense.detector import HEAD_NAMES, DenseDetector
from stages.exports.to_onnx import write_onnx
from stages.training.checkpoint import build_detector

_OF_ATSS, _OF_RETINANET = (
    decisions(max_detections=100, candidates=1000, score_threshold=0.05, iou_threshold=overlap) for overlap in (0.6, 0.5)
)
PUBLISHED = {
    "atss": _OF_ATSS,
    "gfl": _OF_ATSS,
    "fsaf": _OF_RETINANET,
    "reppoints": _OF_RETINANET,
    "yolox": decisions(max_detections=500, candidates=1000, score_threshold=0.01, iou_threshold=0.65),
}
"""How each decides where it was published."""

LEVELS = {"yolox": (8, 16, 32)}
"""Of those that cannot have others than their own."""

SIZE = (96, 128)
"""Of the images that losses and assignments are about."""

RAW = {
    "atss": {"logits": 5, "codes": 4, "quality": 1},
    "gfl": {"logits": 5, "codes": 68},
    "fsaf": {"logits": 5, "codes": 4},
    "reppoints": {"logits": 5, "codes": 18, "start": 18},
    "yolox": {"logits": 5, "codes": 4, "quality": 1},
}
"""What each head returns, under the names of the answers, and how many channels that has for five classes."""

TERMS = {
    "loss_cls": "classification",
    "loss_bbox": "bbox_regression",
    "loss_centerness": "bbox_ctrness",
    "loss_dfl": "bbox_distribution",
    "loss_pts_init": "bbox_start",
    "loss_pts_refine": "bbox_regression",
    "loss_obj": "objectness",
    "loss_l1": "bbox_l1",
}
MILLIONS = {"atss": 32.3, "gfl": 32.4, "fsaf": 36.4, "reppoints": 36.8, "yolox": 9.0}
"""Parameters with 80 classes."""


def built(name: str, num_classes: int = 5, **options: Any) -> DenseDetector:
    detector = build_detector(DetectorConfig.model_validate({"name": name, **options}), num_classes)
    assert isinstance(detector, DenseDetector)
    return detector


def all_levels(name: str) -> DenseDetector:
    """Small, with the levels and anchors of the published one, at the end of its training."""
    scale = {"anchor_scale": 8.0} if "anchor_scale" in TINY[name] else {}
    detector = built(name, **TINY[name] | ({} if name in LEVELS else {"strides": levels_of(name)}) | scale)
    for parameter in moments(detector):
        parameter.data = torch.tensor([0.2, -0.1])
    detector.progress(1.0)
    return detector


def levels_of(name: str) -> tuple[int, ...]:
    return LEVELS.get(name, (8, 16, 32, 64, 128))


def moments(detector: DenseDetector) -> list[nn.Parameter]:
    """The numbers that decide how large a box points stand for, if it has them."""
    return [parameter for key, parameter in detector.named_parameters() if key.endswith("head.moment")]


@cache
def published(name: str) -> DenseDetector:
    """The default form, with the weights of the answers."""
    detector = built(name, 80)
    filled(detector)
    return detector


@cache
def run(name: str) -> Outputs:
    with torch.no_grad():
        outputs: Outputs = published(name)(image())
    return outputs


def expected(name: str) -> list[Arrays]:
    """Boxes as they are within the image, without those outside."""
    found = group(answers(name), "network")
    each = [{key: found[f"{key}/{index}"] for key in ("boxes", "scores", "labels")} for index in range(2)]
    each = [one | {"boxes": clip(one["boxes"], *image().shape[-2:])} for one in each]
    inside = [(one["boxes"][:, 2:] > one["boxes"][:, :2]).all(dim=1) for one in each]
    return [{key: values[keep].numpy() for key, values in one.items()} for one, keep in zip(each, inside, strict=True)]


def raw_head(name: str) -> dict[str, Tensor]:
    """Fixed outputs of a head for two images, in rows; logits from -4 to 2, all others from -2 to 2, or to 0 where that is the least."""
    grids = [(-(-SIZE[0] // stride), -(-SIZE[1] // stride)) for stride in levels_of(name)]
    made = {}
    for part, channels in RAW[name].items():
        low = -4.0 if part == "logits" else -2.0
        levels = [random(f"{name} {part} {index}", (2, channels, *grid), low, 2.0) for index, grid in enumerate(grids)]
        rows = torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1)
        made[part] = (rows.relu() if (name, part) == ("fsaf", "codes") else rows).requires_grad_()
    return made


def named(detector: DenseDetector, raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """The head as a detector's losses expect it."""
    head = {"cls_logits": raw["logits"]}
    if "start" in raw:
        return detector.coded(head | {"points": raw["codes"], "start": raw["start"]})
    if raw["codes"].shape[2] > 4:
        head["bbox_distribution"] = raw["codes"].unflatten(2, (4, -1))
    else:
        head["bbox_regression"] = raw["codes"]
    return head | (dict.fromkeys(("bbox_ctrness", "objectness"), raw["quality"]) if "quality" in raw else {})


def anchors_of(detector: DenseDetector) -> tuple[Tensor, list[int]]:
    features = [torch.zeros(1, 1, -(-SIZE[0] // stride), -(-SIZE[1] // stride)) for stride in detector.strides]
    return detector.anchors(torch.zeros(1, 3, *SIZE), features)[0], detector.sizes(features)


@pytest.mark.parametrize("name", PUBLISHED)
class TestPublished:
    def test_has_as_many_parameters(self, name: str) -> None:
        assert sum(parameter.numel() for parameter in published(name).parameters()) == int(answers(name)["network/parameters"])
        assert sum(parameter.numel() for parameter in published(name).parameters()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.05)

    def test_its_pyramid(self, name: str) -> None:
        for index, level in enumerate(run(name).pyramid):
            wanted = answers(name)[f"network/pyramid/{index}"]
            assert torch.allclose(level[:, ::16, ::2, ::2], wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))

    def test_its_head(self, name: str) -> None:
        detector, wanted = published(name), group(answers(name), "network/head")
        with torch.no_grad():
            head = detector.coded(detector.model.head(list(run(name).pyramid)))
        rows = [head[key].flatten(2)[:, ::13] for key in HEAD_NAMES if key in head]
        assert len(rows) == len(wanted)
        for own, other in zip(rows, wanted.values(), strict=True):
            assert torch.allclose(own, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))

    def test_its_detections(self, name: str) -> None:
        found = by_torch(published(name), image(), PUBLISHED[name])
        assert all(len(one["scores"]) >= 50 for one in found)
        assert difference(found, expected(name)).within(box_px=0.01, score=1e-5)

    @pytest.mark.slow
    def test_its_detections_in_onnx_runtime(self, name: str, tmp_path: Path) -> None:
        found = by_onnx(published(name), image(), PUBLISHED[name], tmp_path / "model.onnx")
        assert difference(found, expected(name)).within(box_px=0.01, score=1e-4)

    def test_anchors_are_where_they_belong(self, name: str) -> None:
        anchors, sizes = anchors_of(all_levels(name))
        assert torch.equal(anchors, answers(name)["assignment/anchors"])
        assert sizes == answers(name)["assignment/sizes"].tolist()


@pytest.mark.parametrize("case", ["two", "one", "none"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_losses_and_their_gradients(name: str, case: str) -> None:
    found = group(answers(name), f"losses/{case}")
    detector, (anchors, sizes) = all_levels(name), anchors_of(all_levels(name))
    raw = raw_head(name)
    targets = [{key: found[f"{key}/{index}"] for key in ("boxes", "labels")} for index in range(2)]
    losses = detector.losses(targets, named(detector, raw), [anchors] * 2, sizes)
    wanted = group(found, "terms")
    assert losses.keys() == {TERMS[term] for term in wanted}
    for term, value in wanted.items():
        torch.testing.assert_close(losses[TERMS[term]], value, rtol=1e-5, atol=1e-6)
    torch.stack(list(losses.values())).sum().backward()
    for key, norms in group(found, "gradients").items():
        grad = raw[key].grad
        assert grad is not None
        own = torch.stack([level.double().norm() for level in grad.split(sizes, dim=1)])
        torch.testing.assert_close(own, norms, rtol=1e-4, atol=1e-6)
    for parameter in moments(detector):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, found["moment"], rtol=1e-4, atol=1e-6)


def _noted(seen: list[Tensor], value: Tensor) -> Tensor:
    seen.append(value)
    return value


def _next_of(means: Iterator[Tensor], _: Tensor) -> Tensor:
    return next(means)


@pytest.mark.parametrize("name", PUBLISHED)
def test_processes_average_to_the_losses_of_the_whole_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each divides by means over all; two processes with an image each are imitated, one after the other."""
    detector = all_levels(name)
    found, raw = group(answers(name), "losses/two"), raw_head(name)
    anchors, sizes = anchors_of(detector)
    targets = [{key: found[f"{key}/{index}"] for key in ("boxes", "labels")} for index in range(2)]

    def losses(chosen: slice) -> dict[str, Tensor]:
        head = named(detector, {part: values[chosen] for part, values in raw.items()})
        return detector.losses(targets[chosen], head, [anchors], sizes)

    own = import_module(type(detector).__module__)
    module = own.__name__ if hasattr(own, "mean_over_processes") else "stages.processes"
    seen: list[list[Tensor]] = [[], []]
    whole, shares = losses(slice(0, 2)), [slice(0, 1), slice(1, 2)]
    monkeypatch.setattr(f"{module}.num_processes", lambda: 2, raising=False)
    for values, share in zip(seen, shares, strict=True):
        monkeypatch.setattr(f"{module}.mean_over_processes", partial(_noted, values))
        losses(share)
    means = [torch.stack(pair).mean(dim=0) for pair in zip(*seen, strict=True)]
    halves = []
    for share in shares:
        monkeypatch.setattr(f"{module}.mean_over_processes", partial(_next_of, iter(means)))
        halves.append(losses(share))
    for term, value in whole.items():
        torch.testing.assert_close(torch.stack([half[term] for half in halves]).mean(), value)


@pytest.mark.parametrize("name", PUBLISHED)
class TestWeights:
    def test_a_file_of_another_number_of_classes_keeps_all_but_the_class_layer(self, name: str, tmp_path: Path) -> None:
        other = built(name, 3, **TINY[name])
        torch.save(other.model.state_dict(), tmp_path / "w.pth")
        own = built(name, 7, **TINY[name], weights=str(tmp_path / "w.pth")).model.state_dict()
        fresh = [key for key, value in other.model.state_dict().items() if own[key].shape != value.shape]
        heads = [f"head.levels.{index}" for index in range(3)] if name == "yolox" else ["head"]
        assert fresh == [f"{head}.cls_logits.{part}" for head in heads for part in ("weight", "bias")]
        assert all(torch.equal(own[key], value) for key, value in other.model.state_dict().items() if key not in fresh)

    def test_a_file_of_another_form_is_refused(self, name: str, tmp_path: Path) -> None:
        torch.save(built(name, **TINY[name] | {"width": 2 * TINY[name]["width"]}).model.state_dict(), tmp_path / "w.pth")
        with pytest.raises(ArtifactError, match="size mismatch"):
            built(name, **TINY[name], weights=str(tmp_path / "w.pth"))

    def test_weights_of_the_backbone_beside_those_of_the_whole_are_refused(self, name: str) -> None:
        if name == "yolox":
            assert "backbone_weights" not in plugins.schema("stages.detectors", name).model_fields
            return
        with pytest.raises(ConfigError, match=r"weights w\.pth include the backbone's; set backbone_weights to null"):
            built(name, weights="w.pth", backbone_weights="IMAGENET1K_V1")


def solid(found: list[Arrays]) -> list[Arrays]:
    """Without boxes thinner than 0.01 px: whether those have an area, and so stay, is a matter of rounding."""
    kept = [(one["boxes"][:, 2:] - one["boxes"][:, :2]).min(axis=1) > 0.01 for one in found]
    return [{key: values[keep] for key, values in one.items()} for one, keep in zip(found, kept, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZE, (160, 96)])
@pytest.mark.parametrize("name", PUBLISHED)
def test_both_runtimes_find_at_any_size_and_batch_what_torch_finds(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    detector, images = built(name, **TINY[name]), image(3, size)
    confident(detector, seen=images)
    options = decisions(max_detections=150, candidates=50, score_threshold=0.1, iou_threshold=0.6)
    wanted = solid(by_torch(detector, images, options))
    assert all(len(one["scores"]) >= 10 for one in wanted)
    heads = write_onnx(detector.graph(options).eval(), size, tmp_path / "model.onnx")
    for runtime in ("ort", "openvino"):
        (tmp_path / runtime).mkdir()
        made = compiled(runtime, tmp_path / "model.onnx", tmp_path / runtime, "fp32", (), heads)
        with plugins.load("deploy.runtimes", runtime).open(made.file, threads=1) as session:
            together, alone = session.infer(images.numpy()), [session.infer(images[index : index + 1].numpy()) for index in range(3)]
        each = [part for one in alone for part in unpadded(one.boxes, one.scores, one.labels)]
        for found in (unpadded(together.boxes, together.scores, together.labels), each):
            assert difference(solid(found), wanted).within(box_px=0.01, score=1e-4), runtime


@pytest.mark.parametrize("name", PUBLISHED)
def test_boxes_without_area_drop_out(name: str) -> None:
    """Of a network that sees every object beyond the right edge, nothing is left."""
    detector = built(name, **TINY[name]).eval()
    options = GraphOptions(50, 50, 0.0, 1.0, 0)
    images = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        graph: Any = detector.graph(options)
        assert (graph(images).scores > 0).any()
        decode = detector.decode
        detector.decode = lambda deltas, anchors: decode(deltas, anchors) + torch.tensor([1000.0, 0, 1000, 0])  # type: ignore[method-assign]
        answer = graph(images)
    assert not answer.scores.any()
    assert not clip(answer.boxes, *SIZE).any()
