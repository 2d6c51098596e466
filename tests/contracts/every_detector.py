"""What holds of every detector, in a tiny form."""

from collections.abc import Callable
from dataclasses import replace

import detector_samples
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.anchor_utils import AnchorGenerator

from deploy import plugins
from deploy.errors import ConfigError
from stages.detectors import Detector, GraphOutput, Outputs, Reading
from stages.detectors.boxes.coding import clip

NUM_CLASSES = 5


def pyramid(detector: Detector, outputs: Outputs) -> None:
    assert len(outputs.pyramid) == len(detector.strides)


def head(detector: Detector, outputs: Outputs) -> None:
    places = [level.shape[-2] * level.shape[-1] for level in outputs.pyramid]
    assert [level.shape[-1] for level in outputs.head["class_logits"]] == [NUM_CLASSES] * len(places)
    for levels in outputs.head.values():
        assert all(level.shape[1] % place == 0 for level, place in zip(levels, places, strict=True))
    assert {tuple(level.shape[1] for level in levels) for levels in outputs.head.values()} == {
        tuple(level.shape[1] for level in outputs.head["class_logits"])
    }


def decoded(detector: Detector, outputs: Outputs) -> None:
    """In the head's rows; what the graph detects is among them, or the proposals, if a second stage moves the boxes."""
    found = outputs.decoded()
    codes = "box_deltas" if "box_deltas" in outputs.head else "box_distributions"
    rows = outputs.head["boxes" if detector.kind == "set_prediction" else codes]
    assert [boxes.shape for boxes in found.boxes] == [(2, row.shape[1], 4) for row in rows]
    assert all(boxes.dtype == torch.float32 for boxes in found.boxes)
    assert (found.anchors is None) == (detector.kind == "set_prediction")
    assert [len(boxes) for boxes in found.anchors or ()] == [row.shape[1] for row in rows if found.anchors]
    scores = torch.cat(outputs.head["objectness" if detector.kind == "two_stage" else "class_logits"], dim=1).sigmoid()
    if "quality" in outputs.head:
        products = scores * torch.cat(outputs.head["quality"], dim=1).sigmoid()
        scores = products if detector.head_shape.product else products.sqrt()
    answer = detected(detector)
    for index, boxes in enumerate(torch.cat(found.boxes, dim=1)):
        if outputs.proposals is None:
            assert_among(answer.boxes[index], answer.scores[index], boxes, scores[index], exactly=True)
        else:
            assert_among(outputs.proposals[index], scores.new_full(outputs.proposals[index].shape[:1], 1e-2), boxes, scores[index, :, 0])


def shape(detector: Detector, outputs: Outputs) -> None:
    """What is known of the head before it is run is so."""
    known = detector.head_shape
    rows = outputs.head["objectness" if detector.kind == "two_stage" else "class_logits"]
    if detector.kind == "set_prediction":
        assert known.channels == outputs.decode_queries().queries.features.shape[-1]
    elif known.places or "head" in detector.gives:  # else no loss that compares heads place by place could serve it
        places = [level.shape[-2] * level.shape[-1] for level in outputs.pyramid]
        assert [row.shape[1] for row in rows] == [count * place for count, place in zip(known.places, places, strict=True)]
    assert known.bins == (outputs.head["box_distributions"][0].shape[-1] if "box_distributions" in outputs.head else 0)


def teacher_head(detector: Detector, outputs: Outputs) -> None:
    """On its own features it is its own head, and others get gradient through it."""
    own = outputs.head_on(outputs.pyramid).head
    assert own.keys() == outputs.head.keys()
    assert all(torch.equal(a, b) for name in own for a, b in zip(own[name], outputs.head[name], strict=True))
    detector.requires_grad_(requires_grad=False)
    features = [level.clone().requires_grad_() for level in outputs.pyramid]
    made = [level.sum() for name, levels in outputs.head_on(features).head.items() if name != "quality" for level in levels]
    torch.stack(made).sum().backward()
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in features)


def towers(detector: Detector, outputs: Outputs) -> None:
    """Cut after any number of convolutions, the head is itself, and what is put in gets gradient."""
    own = outputs.head
    for convs in range(detector.head_shape.convs + 1):
        made = outputs.towers(convs)
        assert [level.shape[1] for level in made.classes] == [detector.head_shape.channels] * len(outputs.pyramid)
        rest = outputs.head_after(made).head
        assert rest.keys() == own.keys()
        assert all(torch.equal(a, b) for name in own for a, b in zip(own[name], rest[name], strict=True))
    classes, boxes = (tuple(level.detach().requires_grad_() for level in tower) for tower in (made.classes, made.boxes))
    answer = outputs.head_after(replace(made, classes=classes, boxes=boxes))
    torch.stack([level.sum() for levels in answer.head.values() for level in (*levels, *answer.decoded().boxes)]).sum().backward()
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in (*classes, *boxes))


def regions(detector: Detector, outputs: Outputs) -> None:
    """What the graph detects is among its proposals' regions."""
    assert outputs.proposals is not None
    found = outputs.regions(outputs.proposals, masks=True)
    count = sum(len(boxes) for boxes in outputs.proposals)
    assert found.class_logits.shape == (count, NUM_CLASSES)
    assert found.background.shape == (count,)
    assert found.boxes.shape in {(count, NUM_CLASSES, 4), (count, 1, 4)}
    assert (found.masks is None) == (detector.mask_frame is None)
    assert found.masks is None or found.masks.shape[:2] == (count, NUM_CLASSES)
    probabilities = torch.cat((found.background[:, None], found.class_logits), dim=1).softmax(dim=1)[:, 1:]
    answer, counts = detected(detector), [len(boxes) for boxes in outputs.proposals]
    places = found.boxes.expand(-1, NUM_CLASSES, -1)
    for index, (boxes, likely) in enumerate(zip(places.split(counts), probabilities.split(counts), strict=True)):
        assert_among(answer.boxes[index], answer.scores[index], boxes.flatten(0, 1), likely.flatten())


def decoder_queries(detector: Detector, outputs: Outputs) -> None:
    """Its own queries' answer is its head's; given ones are decoded in both modes."""
    own = outputs.decode_queries()
    torch.testing.assert_close(own.class_logits, outputs.head["class_logits"][0])
    torch.testing.assert_close(own.boxes, outputs.decoded().boxes[0])
    torch.testing.assert_close(outputs.decode_queries(own.queries).boxes, own.boxes, rtol=1e-3, atol=0.1)
    detector.train()
    answer = outputs.decode_queries(own.queries)
    assert answer.class_logits.shape == own.class_logits.shape
    assert outputs.decode_queries().class_logits.shape == own.class_logits.shape


def detected(detector: Detector) -> GraphOutput:
    options = detector_samples.decisions(max_detections=15, score_threshold=0.0, proposals=1000)
    with torch.no_grad():
        answer: GraphOutput = detector.graph(options).eval()(detector_samples.images(""))
    assert (answer.scores[:, 0] > 0).all()
    return answer


def assert_among(found: Tensor, scores: Tensor, boxes: Tensor, probabilities: Tensor, *, exactly: bool = False) -> None:
    """Found boxes [K, 4] with scores above 0 are, clipped, among boxes [N, 4] with at least one of these probabilities [N, ...].

    exactly: they are these probabilities.
    """
    inside = clip(boxes, *detector_samples.SIZE)
    for box, score in zip(found[scores > 0], scores[scores > 0], strict=True):
        near = (inside - box).abs().amax(dim=1) < 0.1
        assert near.any()
        assert probabilities[near].max() >= score - 1e-3
        assert not exactly or (probabilities[near] - score).abs().min() < 1e-3


GIVEN: dict[Reading, Callable[[Detector, Outputs], None]] = {
    "pyramid": pyramid,
    "head": head,
    "decoded": decoded,
    "regions": regions,
    "teacher_head": teacher_head,
    "towers": towers,
    "decoder_queries": decoder_queries,
}
"""What must hold of each part of the outputs that a detector lists."""


@pytest.mark.parametrize("name", plugins.names("stages.detectors"))
class TestEveryDetector:
    def test_its_weights_are_declared(self, name: str) -> None:
        """Else a checkpoint trained from different content would be reused."""
        named = {option for option in plugins.schema("stages.detectors", name).model_fields if "weights" in option}
        assert named <= set(plugins.options_of("stages.detectors", name, plugins.OptionRole.WEIGHTS))

    def test_gives_the_pyramid_that_it_announces(self, name: str) -> None:
        detector, images = detector_samples.tiny(name).eval(), detector_samples.images(name)
        outputs = detector(images)
        assert outputs.strides == detector.strides
        for level, stride, channels in zip(outputs.pyramid, detector.strides, detector.channels, strict=True):
            assert level.shape[:2] == (2, channels)
            for side, whole in zip(level.shape[2:], images.shape[2:], strict=True):
                assert abs(side - whole / stride) < 1
        assert not outputs.losses
        assert outputs.head

    def test_gives_losses_what_it_lists_and_refuses_the_rest(self, name: str) -> None:
        detector = detector_samples.confident(detector_samples.tiny(name))
        with torch.no_grad():
            outputs = detector(detector_samples.images(name))
        shape(detector, outputs)
        for reading in detector.gives:
            GIVEN[reading](detector.eval(), outputs)
        calls: dict[Reading, Callable[[], object]] = {
            "decoded": outputs.decoded,
            "regions": lambda: outputs.regions(()),
            "teacher_head": lambda: outputs.head_on(outputs.pyramid),
            "towers": lambda: outputs.towers(0),
            "decoder_queries": outputs.decode_queries,
        }
        for reading in calls.keys() - set(detector.gives) if outputs.network else ():
            with pytest.raises(ConfigError, match=f"detector {name} cannot give {reading}"):
                calls[reading]()

    def test_some_of_its_layers_can_be_compiled(self, name: str) -> None:
        """Else `train.compile` is refused."""
        assert detector_samples.tiny(name).layers()

    def test_every_trained_parameter_gets_gradient(self, name: str) -> None:
        detector = detector_samples.tiny(name).train()
        losses = detector(detector_samples.images(name), detector_samples.targets(detector, name)).losses
        assert losses
        assert all(torch.isfinite(loss) for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        assert [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None] == []

    def test_half_precision_leaves_the_anchors_alone(self, name: str) -> None:
        """torchvision's anchors take the type of the features, and bfloat16 rounds them by several px far from the corner."""
        detector = detector_samples.tiny(name).train()
        generators = [module for module in detector.modules() if isinstance(module, AnchorGenerator)]
        with torch.autocast("cpu", torch.bfloat16):
            losses = detector(detector_samples.images(name), detector_samples.targets(detector, name)).losses
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert all(cell.dtype == torch.float32 for generator in generators for cell in generator.cell_anchors)

    def test_its_products_are_counted_without_suppression(self, name: str) -> None:
        """All convolutions and linear layers of the deployed graph, as often as they run, and nothing that grows with candidates."""
        detector = detector_samples.tiny(name).eval().requires_grad_(False)
        kinds = (torch.ops.aten.convolution, torch.ops.aten.addmm)

        def layers(counter: FlopCounterMode) -> float:
            return sum(counter.get_flop_counts()["Global"].get(kind, 0) for kind in kinds)

        images, options = detector_samples.images(name)[:1], detector_samples.decisions(max_detections=15, proposals=50)
        with FlopCounterMode(display=False) as walked, torch.no_grad():
            detector.walk(images, options)
        with FlopCounterMode(display=False) as deployed, torch.no_grad():
            detector.graph(options).eval()(images)
        assert layers(walked) == pytest.approx(layers(deployed), rel=0.02)

    def test_learns_from_a_batch_without_objects(self, name: str) -> None:
        detector = detector_samples.tiny(name).train()
        empty = detector_samples.targets(detector, name)[1]
        losses = detector(detector_samples.images(name), (empty, empty)).losses
        assert losses
        assert all(torch.isfinite(loss) for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()

    def test_the_losses_do_not_depend_on_the_mode_but_on_the_targets(self, name: str) -> None:
        detector, images = detector_samples.tiny(name), detector_samples.images(name)
        given = detector_samples.targets(detector, name)
        assert detector.eval()(images, given).losses
        assert not detector.train()(images).losses

    def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state(self, name: str) -> None:
        torch.manual_seed(7)
        before = torch.get_rng_state()
        first, second, third = (detector_samples.tiny(name, seed).state_dict() for seed in (1, 1, 2))
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert any(not torch.equal(first[key], third[key]) for key in first)

    def test_the_graph_answers_at_a_fixed_shape_and_each_image_alone(self, name: str) -> None:
        detector, images = detector_samples.confident(detector_samples.tiny(name)), detector_samples.images(name)
        graph = detector.graph(detector_samples.decisions(max_detections=15, candidates=50, score_threshold=0.0, proposals=50)).eval()
        with torch.no_grad():
            answer = graph(images)
            alone = graph(images[1:])
        boxes, scores, labels = answer.boxes, answer.scores, answer.labels
        assert boxes.shape == (2, 15, 4)
        assert scores.shape == labels.shape == (2, 15)
        assert labels.dtype == torch.int64
        assert answer.converged.tolist() == [True, True]
        assert answer.head
        assert (answer.masks is None) == (detector.mask_frame is None)
        assert (scores[:, :-1] >= scores[:, 1:]).all()
        assert (scores[:, 0] > 0).all()
        assert ((labels >= 0) & (labels < 5)).all()
        assert boxes.min() >= 0
        assert boxes[..., 0::2].max() <= images.shape[3]
        assert boxes[..., 1::2].max() <= images.shape[2]
        torch.testing.assert_close(alone.scores[0], scores[1], rtol=1e-4, atol=1e-5)
        if answer.masks is not None:
            assert answer.masks.shape[:2] == (2, 15)
            assert answer.masks.min() >= 0
            assert answer.masks.max() <= 1

    def test_a_score_below_the_threshold_is_padding(self, name: str) -> None:
        detector = detector_samples.confident(detector_samples.tiny(name))
        options = detector_samples.decisions(max_detections=15, score_threshold=0.999999)
        with torch.no_grad():
            scores = detector.graph(options).eval()(detector_samples.images(name)).scores
        assert ((scores == 0) | (scores > 0.999999)).all()
