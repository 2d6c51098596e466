"""Deltas to boxes, against torchvision's own coder and by hand."""

import torch
from torchvision.models.detection._utils import BoxCoder

from stages.detectors.boxes import coding


def test_it_equals_torchvisions_coder_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(500, 2, generator=generator) * 300
    boxes = torch.cat((corner, corner + torch.rand(500, 2, generator=generator) * 200), dim=1)
    deltas = torch.randn(500, 4, generator=generator) * 3
    weights = (10.0, 10.0, 5.0, 5.0)
    assert torch.equal(coding.decode(deltas, boxes, weights), BoxCoder(weights).decode_single(deltas, boxes))


def test_a_box_grows_by_a_limited_factor() -> None:
    grown = coding.decode(torch.tensor([0.0, 0.0, 50.0, 0.0]), torch.tensor([0.0, 0.0, 16.0, 16.0]))
    torch.testing.assert_close(grown, torch.tensor([8.0 - 500, 0.0, 8.0 + 500, 16.0]))


def test_clipping_cuts_at_every_side() -> None:
    boxes = torch.tensor([[-5.0, -6.0, 400.0, 300.0]])
    assert coding.clip(boxes, height=200, width=320).tolist() == [[0.0, 0.0, 320.0, 200.0]]
