import pytest
import torch
from torch import nn

from deploy.errors import ConfigError
from stages.training.normalization import single_values_refused


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
