from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from deploy.errors import ConfigError
from stages.training.layers.normalization import restore_norms, single_values_refused, synchronize_norms


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.BatchNorm1d(4), (1, 4)), (nn.BatchNorm2d(4), (1, 4, 1, 1)), (nn.BatchNorm3d(4), (1, 4, 1, 1, 1))]
)
def test_a_single_value_per_channel_is_refused_before_torch_does(layer: nn.Module, shape: tuple[int, ...]) -> None:
    network = nn.Sequential(layer)
    with single_values_refused(network, "student"), pytest.raises(ConfigError, match=r"^student: batch normalization needs two images"):
        network(torch.zeros(shape))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.zeros(shape))  # its own error: the check ends with the block


def test_all_that_torch_accepts_is_let_through() -> None:
    network = nn.Sequential(nn.BatchNorm2d(4))
    with single_values_refused(network, "student"):
        assert network(torch.zeros(2, 4, 1, 1)).shape == (2, 4, 1, 1)
        assert network(torch.zeros(1, 4, 1, 2)).shape == (1, 4, 1, 2)
        assert network.eval()(torch.zeros(1, 4, 1, 1)).shape == (1, 4, 1, 1)


class WithActivation(nn.BatchNorm2d):
    """As other libraries have it: a normalization that does more."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input).relu()


PARTS = (slice(0, 3), slice(3, 4))
"""The images of each process: not as many."""


def normalized(images: slice) -> list[Tensor]:
    """Outputs, gradients and running statistics of a step on some of four images; what all have is the same in all processes."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1), WithActivation(5, momentum=0.3))
    pixels = torch.randn(4, 3, 6, 5) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None, None] + 100
    network.train()
    synchronize_norms(network)
    found = network(pixels[images])
    found.sin().sum().backward()
    restore_norms(network)
    norms = (network[1], network[3])
    statistics = [one for norm in norms for one in (norm.running_mean, norm.running_var, norm.num_batches_tracked)]
    frozen = network.eval()(pixels)
    assert type(network[1]).forward is nn.BatchNorm2d.forward
    assert "forward" not in vars(network[1])
    return [found.detach(), *statistics, frozen.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]


def normalize(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    torch.save(normalized(PARTS[rank]), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_normalize_by_the_images_of_both(tmp_path: Path) -> None:
    multiprocessing.spawn(normalize, (tmp_path,), nprocs=2)  # type: ignore[attr-defined,no-untyped-call]
    (first, *one), (second, *other) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    whole, *expected = normalized(slice(0, 4))
    torch.testing.assert_close(torch.cat((first, second)), whole, rtol=1e-4, atol=1e-4)
    for index, value in enumerate(expected):
        if index < 7:  # statistics, and what they make of images later
            torch.testing.assert_close(one[index], value, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(other[index], value, rtol=1e-4, atol=1e-4)
        else:  # gradients, which are added up over processes
            torch.testing.assert_close(one[index] + other[index], value, rtol=1e-3, atol=1e-4)


def test_a_single_process_is_left_as_it_is() -> None:
    network = nn.Sequential(nn.BatchNorm2d(4))
    synchronize_norms(network)
    assert "forward" not in vars(network[0])
