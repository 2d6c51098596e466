"""Random numbers of a loss that are the same when a training is resumed."""

import torch
from torch import Tensor, nn

from stages.processes import process_index


class Draws(nn.Module):
    """Draws that depend on a seed, the process and the number of calls so far, which is saved with the loss's weights.

    The seed is drawn when it is built, from torch's generator, so it depends on the training's. Nothing here touches that generator
    later, so other draws of the training are the same with and without the loss.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seed = int(torch.randint(2**31, ()))
        self._calls = 0

    def generator(self) -> torch.Generator:
        """A new generator on the CPU for one call of the loss.

        torch takes only the low 32 bits of a seed there, so all that a draw depends on is mixed into these.
        """
        self._calls += 1
        return torch.Generator().manual_seed(hash((self._seed, self._calls, process_index())) % 2**63)

    def get_extra_state(self) -> Tensor:
        """For torch: saved as a tensor, which every file format holds."""
        return torch.tensor([self._seed, self._calls])

    def set_extra_state(self, state: Tensor) -> None:
        """For torch."""
        self._seed, self._calls = state.tolist()
