"""Batches for training: the same images in the same views whatever the number of workers or processes."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data
from torchvision import tv_tensors

from deploy import machine
from deploy.errors import ConfigError, DataError
from deploy.prediction import image_files, preprocess
from deploy.prediction.detections import by_image, corners
from deploy.prediction.masks import decode, rectangle
from stages.artifacts import Dataset
from stages.config import StudentViewConfig, TrainConfig
from stages.detectors import Target
from stages.measurement.splits import labeled_split
from stages.training.augment import Sample, magnification, mosaic, mosaic_chance, tighten, transforms
from stages.training.degrade import degrade, views

KEPT_BYTES = 2**28  # for decoded images


@dataclass(frozen=True)
class TrainingBatch:
    """images [B, 3, H, W] as the deployed network receives them, and their objects in px of that input.

    `clean` is the teacher's view of the same geometry if the student's is corrupted.
    """

    images: Tensor
    targets: tuple[Target, ...]
    clean: Tensor | None = None

    def to(self, device: torch.device) -> "TrainingBatch":
        """The batch on another device."""
        targets = tuple(
            Target(t.boxes.to(device), t.labels.to(device), None if t.masks is None else t.masks.to(device)) for t in self.targets
        )
        images, clean = (None if one is None else one.to(device, memory_format=torch.channels_last) for one in (self.images, self.clean))
        assert images is not None
        return TrainingBatch(images, targets, clean)

    def split(self, parts: int) -> "list[TrainingBatch]":
        """This many parts, but no more than there are images, about equal in size."""
        images = self.images.chunk(parts)
        clean = [None] * len(images) if self.clean is None else self.clean.chunk(parts)
        ends = [0, *accumulate(len(part) for part in images)]
        pieces = zip(images, pairwise(ends), clean, strict=True)
        return [TrainingBatch(part, self.targets[start:end], other) for part, (start, end), other in pieces]


class TrainingSample(NamedTuple):
    """A network's view [3, H, W] with its objects, and the clean view of a teacher whose student sees a corrupted one."""

    image: Tensor
    target: Target
    clean: Tensor | None = None


class TrainingImages(data.Dataset[tuple[Tensor, Target]]):
    """The train split; item (epoch, index) is a view that depends only on the seed, the epoch and the index.

    With `masks` its target has masks; an object annotated without one has its box instead. With `student_view` it is corrupted, and
    the clean view comes with it.
    """

    def __init__(
        self, dataset: Dataset, config: TrainConfig, seed: int, *, masks: bool = False, student_view: StudentViewConfig | None = None
    ) -> None:
        facts = dataset.facts
        self._preprocessing = facts.contract.preprocessing
        split = labeled_split(dataset, "train")
        self._files = split.images
        label = {category: i for i, category in enumerate(facts.contract.category_ids)}
        countable = (one for one in split.truth["annotations"] if not one.get("iscrowd", 0))
        objects = by_image(countable, (image["id"] for image in split.truth["images"])).values()
        self._boxes = [torch.tensor([corners(one["bbox"]) for one in rows], dtype=torch.float32).reshape(-1, 4) for rows in objects]
        self._labels = [torch.tensor([label[one["category_id"]] for one in rows], dtype=torch.int64) for rows in objects]
        outlines = ([one.get("segmentation") or rectangle(one["bbox"]) for one in rows] for rows in objects)
        self._masks: list[list[Any]] | None = list(outlines) if masks else None
        self._transforms = transforms(config.augment, self._preprocessing.pad_value)
        self._every_view, self._student_view = views(config.augment, student_view)
        self._mosaic = mosaic_chance(config.augment)
        self._room = magnification(config.augment)
        self._kept: dict[int, tuple[NDArray[np.uint8], tuple[int, int]]] = {}
        self._bytes_left = KEPT_BYTES
        self._seed = seed

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target]:
        sample = self.sample(key)
        return sample.image, sample.target

    def sample(self, key: tuple[int, int]) -> TrainingSample:
        """The same item, with the clean view if there is a student's view."""
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(hash((self._seed, epoch, index)) % 2**63)  # not other devices': only this one is forked
            image, objects = self._view(index)
        pixels = np.ascontiguousarray(image.numpy().transpose(1, 2, 0))
        if self._every_view is not None:
            pixels = degrade(pixels, self._every_view, hash((self._seed, epoch, index, 1)) % 2**63)
        tensor, placement = preprocess.apply(pixels, self._preprocessing)
        clean = None
        if self._student_view is not None:
            clean = torch.from_numpy(tensor)
            pixels = degrade(pixels, self._student_view, hash((self._seed, epoch, index, 2)) % 2**63)
            tensor, _ = preprocess.apply(pixels, self._preprocessing)
        boxes = torch.from_numpy(placement.place(objects["boxes"].numpy()).astype(np.float32))
        if self._masks is None:
            return TrainingSample(torch.from_numpy(tensor), Target(boxes, objects["labels"]), clean)
        masks = torch.from_numpy(preprocess.fit_masks(objects["masks"].numpy(), placement, self._preprocessing))
        return TrainingSample(torch.from_numpy(tensor), tighten(Target(boxes, objects["labels"], masks)), clean)

    def _view(self, index: int) -> Sample:
        sample = self._read(index)
        if self._mosaic and float(torch.rand(())) < self._mosaic:
            sample = mosaic(sample, lambda: self._read(int(torch.randint(len(self), ()))), self._preprocessing.pad_value)
        view: Sample = self._transforms(*sample)
        return view

    def _read(self, index: int) -> Sample:
        image, (height, width) = self._pixels(index)
        size = image.shape[0], image.shape[1]
        scale = torch.tensor([size[1] / width, size[0] / height] * 2)
        boxes = tv_tensors.BoundingBoxes(self._boxes[index] * scale, format="XYXY", canvas_size=size)
        pixels = tv_tensors.Image(torch.from_numpy(image.transpose(2, 0, 1).copy()))
        objects = {"boxes": boxes, "labels": self._labels[index]}
        if self._masks is not None:
            masks = np.zeros((len(boxes), *size), np.bool_)
            for mask, segmentation in zip(masks, self._masks[index], strict=True):
                mask[:] = preprocess.resize_masks(decode(segmentation, (height, width))[None], size)[0]
            objects["masks"] = tv_tensors.Mask(torch.from_numpy(masks))
        return pixels, objects

    def _pixels(self, index: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """The image, shrunk to what its views can show, and its height and width before.

        The first KEPT_BYTES of images are read once and kept, except in a loader process, which ends with its epoch.
        """
        if index not in self._kept:
            image = image_files.load_image(self._files[index], self._preprocessing)
            found = preprocess.shrink(image, self._preprocessing, self._room), (image.shape[0], image.shape[1])
            if found[0].nbytes > self._bytes_left or data.get_worker_info() is not None:
                return found
            self._bytes_left -= found[0].nbytes
            self._kept[index] = found
        return self._kept[index]


class EpochBatches(data.Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): one shuffle per epoch, each global batch divided among the processes, the incomplete last one dropped.

    Raises:
        ConfigError: the batch size is not a multiple of the number of processes.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, rank: int, num_processes: int) -> None:
        self.epoch = 0
        self._num_images = num_images
        self._batch_size = min(batch_size, num_images)
        if self._batch_size % num_processes:
            given = f"a global batch of {self._batch_size} images (train.batch_size {batch_size}, {num_images} training images)"
            raise ConfigError(f"{given} cannot be divided evenly among {num_processes} processes; use a multiple of {num_processes}")
        self._seed = seed
        self._rank = rank
        self._num_processes = num_processes

    def __len__(self) -> int:
        return self._num_images // self._batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(hash((self._seed, self.epoch)) % 2**63)
        order = torch.randperm(self._num_images, generator=generator).tolist()
        for start in range(0, len(self) * self._batch_size, self._batch_size):
            batch = order[start : start + self._batch_size]
            yield [(self.epoch, index) for index in batch[self._rank :: self._num_processes]]


class _Readable(data.Dataset[TrainingSample | DataError]):
    """The same images, with an error in place of an unusable one.

    If it were raised in a loader process, torch would raise a different error whose message is a traceback.
    """

    def __init__(self, images: TrainingImages) -> None:
        self._images = images

    def __getitem__(self, key: tuple[int, int]) -> TrainingSample | DataError:
        try:
            return self._images.sample(key)
        except DataError as error:
            return error


def collate(samples: list[TrainingSample | DataError]) -> TrainingBatch | DataError:
    """Stack the images of one batch; if one of them is unusable, the first error."""
    read = [sample for sample in samples if not isinstance(sample, DataError)]
    if len(read) < len(samples):
        return next(sample for sample in samples if isinstance(sample, DataError))
    clean = [one.clean for one in read if one.clean is not None]
    images, targets = torch.stack([one.image for one in read]), tuple(one.target for one in read)
    return TrainingBatch(images, targets, torch.stack(clean) if clean else None)


class Loader(data.DataLoader[TrainingSample | DataError]):
    """A loader whose processes do not hear Ctrl-C, which their terminal sends to all: they end with the training."""

    def __iter__(self) -> Any:
        """Start the processes of an epoch."""
        with _without_interrupts():
            return super().__iter__()


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


def loader(images: TrainingImages, batches: EpochBatches, workers: int) -> Loader:
    """Iterates over the batches of `batches.epoch`, with an error in place of a batch that has an unusable image."""
    return Loader(
        _Readable(images),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="fork" if workers and hasattr(os, "fork") else None,
    )
