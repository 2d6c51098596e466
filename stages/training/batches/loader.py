"""Batches for training: the same images in the same views whatever the number of workers or processes."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data
from torchvision import tv_tensors

from deploy import machine
from deploy.errors import DataError
from deploy.prediction import preprocess
from deploy.prediction.masks import rectangle
from stages.artifacts import Dataset
from stages.config import StudentViewConfig, TrainConfig
from stages.datasets.tables.outlines import Outlines
from stages.detectors import Target
from stages.training.batches.augment import Sample, magnification, mosaic, mosaic_chance, tighten, transforms
from stages.training.batches.degrade import degrade, views
from stages.training.batches.kept_images import KeptViews, shrunk_masks
from stages.training.batches.streams import LABELED, EpochBatches, Key, Stream, StreamBatches, TrainingView, Views


@dataclass(frozen=True)
class TrainingBatch:
    """images [B, 3, H, W] as the deployed network receives them, and their objects in px of that input.

    `clean` is the teacher's view of the same geometry if the student's is corrupted; `others` are the images of other streams for the
    same step, by name. `weight`, of another stream, is a factor on its losses: 1, unless its part of a batch is not the same share of
    the whole as that of the labeled images, by which every loss of a part is multiplied. `parts`: of its step, it being one of them.
    """

    images: Tensor
    targets: tuple[Target, ...]
    others: Mapping[str, "TrainingBatch"] = field(default_factory=dict)
    clean: Tensor | None = None
    weight: float = 1.0
    parts: int = 1

    def to(self, device: torch.device) -> "TrainingBatch":
        """The batch on another device; from pinned memory, the copy is not waited for."""
        return self.with_tensors(
            lambda images: images.to(device, memory_format=torch.channels_last, non_blocking=True),
            lambda tensor: tensor.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "TrainingBatch":
        """The batch in memory from which a GPU copies by itself; DataLoader calls it."""
        return self.with_tensors(Tensor.pin_memory, Tensor.pin_memory)

    def with_tensors(self, of_images: Callable[[Tensor], Tensor], of_targets: Callable[[Tensor], Tensor]) -> "TrainingBatch":
        """The batch of what these functions make of its images and of the tensors of its targets."""
        targets = tuple(_target_with(target, of_targets) for target in self.targets)
        others = {name: batch.with_tensors(of_images, of_targets) for name, batch in self.others.items()}
        clean = None if self.clean is None else of_images(self.clean)
        return replace(self, images=of_images(self.images), targets=targets, others=others, clean=clean)

    def split(self, parts: int) -> "list[TrainingBatch]":
        """At most this many parts, equal in size but for a smaller last one: of five images in four parts, 2, 2 and 1.

        Every other stream is split alike.
        """
        ends = [0, *accumulate(len(part) for part in self.images.chunk(parts))]
        return [replace(_slice(self, *span), others=self._others_in(*span), parts=len(ends) - 1) for span in pairwise(ends)]

    def _others_in(self, start: int, end: int) -> "dict[str, TrainingBatch]":
        """The parts of the other streams that go with a part of this batch; without those of which no image does."""
        found = {}
        for name, batch in self.others.items():
            first, last = (round(place * len(batch.images) / len(self.images)) for place in (start, end))
            if first < last:
                share, labeled = (last - first) / len(batch.images), (end - start) / len(self.images)
                found[name] = replace(_slice(batch, first, last), weight=share / labeled)
        return found


def _slice(batch: TrainingBatch, start: int, end: int) -> TrainingBatch:
    """Some images of a batch, without other streams."""
    clean = None if batch.clean is None else batch.clean[start:end]
    return TrainingBatch(batch.images[start:end], batch.targets[start:end], clean=clean)


def _target_with(target: Target, made: Callable[[Tensor], Tensor]) -> Target:
    """The target of what a function makes of its tensors; the doubt follows from the scores later, on the device."""
    masks, scores = (None if one is None else made(one) for one in (target.masks, target.scores))
    return Target(made(target.boxes), made(target.labels), masks, scores)


class TrainingImages(KeptViews):
    """The train split; item (epoch, index) is a view that depends only on the seed, the epoch and the index.

    With `masks` its target has masks; an object annotated without one has its box instead. With `student_view` it is corrupted, and
    the clean view comes with it.
    """

    def __init__(
        self, dataset: Dataset, config: TrainConfig, seed: int, *, masks: bool = False, student_view: StudentViewConfig | None = None
    ) -> None:
        super().__init__(dataset.facts.contract.preprocessing, magnification(config.augment))
        self._folder = dataset.images("train")
        self._table = dataset.table("train")
        self._outlines = self._table.outlines() if masks else None
        self._transforms = transforms(config.augment, self._preprocessing.pad_value)
        self._every_view, self._student_view = views(config.augment, student_view)
        self._mosaic = mosaic_chance(config.augment)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: Key) -> TrainingView:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(hash((self._seed, epoch, index)) % 2**63)  # not other devices': only this one is forked
            image, objects = self._view(index)
        pixels = _interleaved(image.numpy())
        if self._every_view is not None:
            pixels = degrade(pixels, self._every_view, hash((self._seed, epoch, index, 1)) % 2**63)
        tensor, placement = preprocess.apply(pixels, self._preprocessing)
        clean = None
        if self._student_view is not None:
            clean = torch.from_numpy(tensor)
            pixels = degrade(pixels, self._student_view, hash((self._seed, epoch, index, 2)) % 2**63)
            tensor, _ = preprocess.apply(pixels, self._preprocessing)
        boxes = torch.from_numpy(placement.place(objects["boxes"].numpy()).astype(np.float32))
        if self._outlines is None:
            return TrainingView(torch.from_numpy(tensor), Target(boxes, objects["labels"]), clean)
        masks = torch.from_numpy(preprocess.fit_masks(objects["masks"].numpy(), placement, self._preprocessing))
        return TrainingView(torch.from_numpy(tensor), tighten(Target(boxes, objects["labels"], masks)), clean)

    def _view(self, index: int) -> Sample:
        sample = self._read(index)
        if self._mosaic and float(torch.rand(())) < self._mosaic:
            sample = mosaic(sample, lambda: self._read(int(torch.randint(len(self), ()))), self._preprocessing.pad_value)
        view: Sample = self._transforms(*sample)
        return view

    def _read(self, index: int) -> Sample:
        image, (height, width) = self._pixels(index, self._folder / self._table.name(index))
        size = image.shape[0], image.shape[1]
        scale = torch.tensor([size[1] / width, size[0] / height] * 2)
        corners = torch.from_numpy(self._table.corners(index))
        boxes = tv_tensors.BoundingBoxes(corners * scale, format="XYXY", canvas_size=size)
        pixels = tv_tensors.Image(torch.from_numpy(image.transpose(2, 0, 1).copy()))
        objects = {"boxes": boxes, "labels": torch.from_numpy(self._table.labels_of(index))}
        if self._outlines is not None:
            objects["masks"] = shrunk_masks(self._segmentations(self._outlines, index), len(boxes), (height, width), size)
        return pixels, objects

    def _segmentations(self, outlines: Outlines, index: int) -> Iterator[Any]:
        """The masks of an image's objects; an object without one has its box instead."""
        rows = self._table.objects(index)
        for row in range(rows.start, rows.stop):
            yield outlines.segmentation(row, self._table.sizes[index]) or rectangle(self._table.boxes[row].tolist())


def _interleaved(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image [3, H, W] as [H, W, 3], plane by plane, which takes a quarter of NumPy's time for a transposed copy."""
    pixels = np.empty((*planes.shape[1:], len(planes)), np.uint8)
    for channel, plane in enumerate(planes):
        pixels[..., channel] = plane
    return pixels


class _Readable(data.Dataset[tuple[str, TrainingView | DataError]]):
    """The images of all streams, each with its stream's name, and an error in place of an unusable one.

    If it were raised in a loader process, torch would raise a different error whose message is a traceback.
    """

    def __init__(self, streams: Mapping[str, Views]) -> None:
        self._streams = streams

    def __getitem__(self, key: tuple[str, Key]) -> tuple[str, TrainingView | DataError]:
        name, place = key
        try:
            return name, self._streams[name][place]
        except DataError as error:
            return name, error


def collate(samples: Sequence[TrainingView | DataError]) -> TrainingBatch | DataError:
    """Stack the images of one batch; if one of them is unusable, the first error."""
    read = [sample for sample in samples if not isinstance(sample, DataError)]
    if len(read) < len(samples):
        return next(sample for sample in samples if isinstance(sample, DataError))
    clean = [one.clean for one in read if one.clean is not None]
    images, targets = torch.stack([one.image for one in read]), tuple(one.target for one in read)
    return TrainingBatch(images, targets, clean=torch.stack(clean) if clean else None)


def _collate_streams(samples: list[tuple[str, TrainingView | DataError]]) -> TrainingBatch | DataError:
    """The labeled batch with those of the other streams, or the first error."""
    found = {name: collate([sample for own, sample in samples if own == name]) for name in dict.fromkeys(name for name, _ in samples)}
    others = {name: batch for name, batch in found.items() if name != LABELED and isinstance(batch, TrainingBatch)}
    labeled, error = found[LABELED], next((one for one in found.values() if isinstance(one, DataError)), None)
    if error is not None or isinstance(labeled, DataError):
        return error or labeled
    return replace(labeled, others=others) if others else labeled


class Loader(data.DataLoader[tuple[str, TrainingView | DataError]]):
    """A loader whose processes live until it is closed and do not hear Ctrl-C, which their terminal sends to all."""

    def __iter__(self) -> Any:
        """Start the processes, or go on with them."""
        with _without_interrupts():
            return super().__iter__()

    def close(self) -> None:
        """End the processes; iterating starts new ones."""
        self._iterator = None


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait; processes that are forked in the meantime never get it, not even while they start."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def default_workers() -> int:
    """One loader process per core except one, but at most four: the training thread keeps a core of its own."""
    return min(4, machine.num_cores() - 1) if hasattr(os, "fork") else 0


def loader(images: Views, batches: EpochBatches, workers: int, others: Mapping[str, Stream] | None = None) -> Loader:
    """Iterates over the batches of `batches.epoch`, with an error in place of a batch that has an unusable image.

    It draws nothing from torch's own generator, which detectors draw from: loader processes start at other times in a resumed training.
    """
    streams = others or {}
    return Loader(
        _Readable({LABELED: images, **{name: stream.views for name, stream in streams.items()}}),
        batch_sampler=StreamBatches(batches, streams),
        num_workers=workers,
        collate_fn=_collate_streams,
        generator=torch.Generator().manual_seed(batches.seed),
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="fork" if workers and hasattr(os, "fork") else None,
        persistent_workers=workers > 0,
    )
