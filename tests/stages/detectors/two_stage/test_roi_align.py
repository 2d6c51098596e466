"""RoIAlign in gathers against torchvision's kernel."""

import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from stages.detectors.boxes.coding import clip
from stages.detectors.two_stage.adaptive_roi_align import gather_pool, pool
from stages.detectors.two_stage.roi_align import region_levels, roi_align

HEIGHT, WIDTH = 96, 160
STRIDES = (4, 8, 16, 32)


def levels(strides: tuple[int, ...] = STRIDES, channels: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, HEIGHT // s, WIDTH // s, generator=generator) for s in strides]


def regions() -> Tensor:
    """[2, 60, 4]: of every size up to far beyond the image, within it, at its borders and out of it."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(2, 50, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    size = 2 ** (torch.rand(2, 50, 2, generator=generator) * 12 - 3)
    special = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.0],
            [WIDTH, HEIGHT, WIDTH, HEIGHT],
            [0.0, 0.0, WIDTH, HEIGHT],
            [30.0, 40.0, 30.0, 90.0],
            [10.5, 11.5, 10.6, 11.6],
            [-900.0, -900.0, 900.0, 900.0],
            [WIDTH - 1.0, 0.0, WIDTH, 1.0],
            [-30.0, -30.0, -20.0, -20.0],
            [WIDTH + 3.0, HEIGHT + 3.0, WIDTH + 60.0, HEIGHT + 60.0],
            [0.0, 0.0, 112.0, 112.0],
        ]
    )
    return torch.cat((torch.cat((corner, corner + size), dim=2), special.expand(2, -1, -1)), dim=1)


def expected(maps: list[Tensor], boxes: Tensor, output_size: int) -> Tensor:
    names = [str(index) for index in range(len(maps))]
    pool = MultiScaleRoIAlign(names, output_size, 2)
    pooled: Tensor = pool(OrderedDict(zip(names, maps, strict=True)), list(boxes), [(HEIGHT, WIDTH)] * 2)
    return pooled


@pytest.mark.parametrize("output_size", [7, 14])
@pytest.mark.parametrize("strides", [STRIDES, (8, 16), (32,)])
def test_it_pools_what_torchvision_pools(strides: tuple[int, ...], output_size: int) -> None:
    boxes = regions()
    ours = roi_align(levels(strides), strides, boxes, output_size)
    torch.testing.assert_close(ours, expected(levels(strides), boxes, output_size), rtol=0, atol=1e-5)


def test_every_level_is_used_and_chosen_as_torchvision_chooses() -> None:
    boxes = regions()
    chosen = region_levels(boxes, STRIDES)
    assert set(chosen.flatten().tolist()) == {0, 1, 2, 3}
    assert torch.equal(chosen.flatten(), LevelMapper(2, 5)(list(boxes)))
    sides = torch.tensor([55.99, 56.0, 111.99, 112.0, 112.01, 223.99, 224.0, 447.99, 448.0, 449.0])
    squares = torch.stack((torch.zeros(10), torch.zeros(10), sides, sides), dim=1)
    assert region_levels(squares, STRIDES).tolist() == LevelMapper(2, 5)([squares]).tolist()


def test_between_two_strides_the_finer_level_is_taken() -> None:
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 300.0, 300.0], [0.0, 0.0, 500.0, 500.0]])
    assert region_levels(boxes, (8, 32)).tolist() == [0, 0, 1]


class _Pool(nn.Module):
    def forward(self, levels: Tensor, boxes: Tensor) -> Tensor:
        finer, coarser = levels.split([240, 60], dim=2)
        return roi_align((finer.unflatten(2, (12, 20)), coarser.unflatten(2, (6, 10))), (8, 16), boxes, 7)


def test_onnx_runtime_agrees_for_any_batch_without_the_roi_align_operator(tmp_path: Path) -> None:
    maps = levels((8, 16))
    flat = torch.cat([level.flatten(2) for level in maps], dim=2)
    boxes = regions()
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's remarks about its own internals
        torch.onnx.export(
            _Pool().eval(),
            (flat, boxes),
            str(tmp_path / "m.onnx"),
            dynamo=True,
            opset_version=18,
            dynamic_shapes=({0: batch}, {0: batch}),
            verbose=False,
        )
    operators = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert not operators & {"RoiAlign", "NonZero", "Loop", "If", "ScatterND"}
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    whole = expected(maps, boxes, 7).numpy()
    for start, stop in ((0, 2), (1, 2)):
        feed = {name: value[start:stop].numpy() for name, value in zip(names, (flat, boxes), strict=True)}
        answer = session.run(None, feed)[0]
        np.testing.assert_allclose(answer, whole[start * 60 : stop * 60], rtol=0, atol=1e-5)


def adaptive(maps: list[Tensor], strides: tuple[int, ...], boxes: Tensor, output_size: int) -> tuple[Tensor, Tensor]:
    return pool(maps, strides, list(boxes), output_size), gather_pool(maps, strides, boxes, output_size)


@pytest.mark.parametrize("output_size", [7, 14])
@pytest.mark.parametrize("strides", [STRIDES, (8, 16), (32,)])
def test_with_samples_by_need_it_pools_what_torchvisions_kernel_pools(strides: tuple[int, ...], output_size: int) -> None:
    theirs, ours = adaptive(levels(strides), strides, clip(regions(), HEIGHT, WIDTH), output_size)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("width", "height"), [(112, 112), (223, 56), (56, 223), (448, 28), (28, 448), (600, 380), (3, 900)])
def test_long_regions_on_a_fine_level_are_pooled_from_every_position(width: int, height: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 3, 960 // s, 960 // s, generator=generator) for s in STRIDES]
    corner = torch.rand(1, 8, 2, generator=generator) * torch.tensor([960.0 - width, 960.0 - height])
    theirs, ours = adaptive(maps, STRIDES, torch.cat((corner, corner + torch.tensor([width, height])), dim=2), 7)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)


def test_of_even_longer_ones_every_second_position_is_enough_for_a_smooth_level() -> None:
    x = torch.arange(480.0)
    maps = [torch.sin(x / 40)[None, None, None].expand(1, 1, 480, 480), torch.zeros(1, 1, 240, 240)]
    boxes = torch.tensor([[[10.0, 20.0, 1500.0, 28.0]]])
    theirs, ours = adaptive(maps, (4, 8), boxes, 7)
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)
