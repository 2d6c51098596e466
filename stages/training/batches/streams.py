"""The images of each step: labeled ones, and those of other streams, dealt out to processes and loader processes.

Which images a step has, and in which views, depends on the seed, the epoch and the step, not on the number of processes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Tensor
from torch.utils import data

from deploy.errors import ConfigError
from stages.detectors import Target

Key = tuple[int, int]
"""The epoch of a view, or the pass through an endless stream, and the index of its image."""
LABELED = ""


class TrainingView(NamedTuple):
    """An image [3, H, W] as the network receives it, its objects, and the teacher's clean form of it if the student's is corrupted."""

    image: Tensor
    target: Target
    clean: Tensor | None = None


Views = data.Dataset[TrainingView]
"""Images whose item (epoch, index) is a view that depends only on the seed, the epoch and the index."""


@dataclass(frozen=True)
class Stream:
    """Images in addition to the labeled ones, `batch_size` in each step over all processes; their targets may be empty.

    They are shuffled again whenever all `num_images` have been used, which need not be at the end of an epoch.
    """

    views: Views
    num_images: int
    batch_size: int


class Unseen(Views):
    """Stands for labeled images that only count the steps of a training that learns from other streams."""

    def __getitem__(self, key: Key) -> TrainingView:
        return TrainingView(torch.zeros(3, 1, 1), Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)))


class EpochBatches(data.Sampler[list[Key]]):
    """Batches of (epoch, index): one shuffle per epoch, each global batch divided among the processes, the incomplete last one dropped.

    Raises:
        ConfigError: the batch size is not a multiple of the number of processes.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, rank: int, num_processes: int) -> None:
        self.epoch = 0
        self.seed, self.rank, self.num_processes = seed, rank, num_processes
        self._num_images = num_images
        self.batch_size = min(batch_size, num_images)
        if self.batch_size % num_processes:
            given = f"a global batch of {self.batch_size} images (train.batch_size {batch_size}, {num_images} training images)"
            raise ConfigError(f"{given} cannot be divided evenly among {num_processes} processes; use a multiple of {num_processes}")

    def __len__(self) -> int:
        return self._num_images // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order = shuffled(self._num_images, self.seed, self.epoch)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield [(self.epoch, index) for index in batch[self.rank :: self.num_processes]]


class StreamBatches(data.Sampler[list[tuple[str, Key]]]):
    """The labeled batches of an epoch, each with this process's part of every other stream's images for the same step.

    Raises:
        ConfigError: a stream's batch size is not a multiple of the number of processes.
    """

    def __init__(self, labeled: EpochBatches, others: Mapping[str, Stream]) -> None:
        self._labeled = labeled
        self._others = others
        for name, stream in others.items():
            if not stream.num_images:
                raise ConfigError(f"stream {name} has no images")
            if stream.batch_size % labeled.num_processes:
                given = f"stream {name}: a global batch of {stream.batch_size} images"
                raise ConfigError(f"{given} cannot be divided evenly among {labeled.num_processes} processes")

    def __len__(self) -> int:
        return len(self._labeled)

    def __iter__(self) -> Iterator[list[tuple[str, Key]]]:
        for number, keys in enumerate(self._labeled, start=self._labeled.epoch * len(self)):
            more = ((name, key) for name in self._others for key in self._keys(name, number))
            yield [*((LABELED, key) for key in keys), *more]

    def _keys(self, name: str, step: int) -> list[Key]:
        """What this process reads of a stream at a step of the training."""
        stream, own = self._others[name], self._labeled
        places = range(step * stream.batch_size + own.rank, (step + 1) * stream.batch_size, own.num_processes)
        found = []
        for place in places:
            turn, position = divmod(place, stream.num_images)
            found.append((turn, _shuffled_once(stream.num_images, own.seed + crc32(name.encode()), turn)[position]))
        return found


def shuffled(num_images: int, seed: int, epoch: int) -> list[int]:
    """The indices of all images in the epoch's order."""
    generator = torch.Generator().manual_seed(hash((seed, epoch)) % 2**63)
    order: list[int] = torch.randperm(num_images, generator=generator).tolist()
    return order


_shuffled_once = lru_cache(maxsize=8)(shuffled)
"""As `shuffled`, kept while a stream goes through it."""
