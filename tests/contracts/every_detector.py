"""What holds of every detector, in a tiny form."""

import detector_samples
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.anchor_utils import AnchorGenerator

from deploy import plugins


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
