"""Every step has the same images whatever the number of processes and loader processes, of every stream."""

import os
from pathlib import Path

import pytest
import tiny
import torch

from deploy.errors import ConfigError, DataError
from stages.artifacts import Dataset
from stages.detectors import Target
from stages.training.batches.loader import Loader, TrainingBatch, TrainingImages, loader
from stages.training.batches.streams import EpochBatches, Key, Stream, StreamBatches, TrainingView, Views


class Plain(Views):
    """Images of one value, which is their key and the process that made them."""

    def __init__(self, *, bad: int | None = None) -> None:
        self._bad = bad

    def __getitem__(self, key: Key) -> TrainingView:
        if key[1] == self._bad:
            raise DataError("plain: no such image")
        image = torch.tensor([float(key[0]), float(key[1]), float(os.getpid())]).reshape(3, 1, 1)
        return TrainingView(image, Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data"), size=64)


def keys(rank: int, processes: int, epochs: int = 3) -> list[list[tuple[str, Key]]]:
    batches = EpochBatches(10, 4, 3, rank, processes)
    found = []
    for batches.epoch in range(epochs):
        found += list(StreamBatches(batches, {"more": Stream(Plain(), 7, 6), "few": Stream(Plain(), 1, 2)}))
    return found


def test_two_processes_read_together_what_one_reads() -> None:
    for whole, first, second in zip(keys(0, 1), keys(0, 2), keys(1, 2), strict=True):
        assert sorted(whole) == sorted(first + second)
        assert len(first) == len(second) == 2 + 3 + 1


def test_a_stream_uses_every_image_once_before_any_again_across_epochs() -> None:
    read = [key for batch in keys(0, 1, epochs=7) for name, key in batch if name == "more"]
    assert len(read) == 2 * 7 * 6
    for turn in range(12):
        assert sorted(read[7 * turn : 7 * (turn + 1)]) == [(turn, index) for index in range(7)]
    assert [index for turn, index in read if turn == 0] != [index for turn, index in read if turn == 1]


def everything(data: Dataset, workers: int, epochs: int = 2) -> list[TrainingBatch]:
    images = TrainingImages(data, tiny.schedule(augment=[{"name": "scale"}, {"name": "mosaic"}]), 0)
    batches = EpochBatches(len(images), 4, 0, 0, 1)
    supply = loader(images, batches, workers, {"more": Stream(Plain(), 5, 3)})
    found = []
    for batches.epoch in range(epochs):
        found += list(supply)
    supply.close()
    assert all(isinstance(batch, TrainingBatch) for batch in found)
    return [batch for batch in found if isinstance(batch, TrainingBatch)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_batches_are_the_same_with_any_number_of_workers_bit_for_bit(data: Dataset) -> None:
    none, *others = (everything(data, workers) for workers in (0, 1, 2))
    assert len(none) == 6
    for found in others:
        for one, other in zip(none, found, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.others["more"].images[:, :2], other.others["more"].images[:, :2])
            for mine, same in zip(one.targets, other.targets, strict=True):
                assert torch.equal(mine.boxes, same.boxes)
                assert torch.equal(mine.labels, same.labels)


def processes(supply: Loader) -> set[int]:
    return {int(one) for batch in supply if isinstance(batch, TrainingBatch) for one in batch.images[:, 2].flatten().tolist()}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="loader processes are forked")
def test_loader_processes_live_through_epochs_and_end_when_closed() -> None:
    supply = loader(Plain(), EpochBatches(12, 4, 0, 0, 1), workers=2)
    first, second = processes(supply), processes(supply)
    assert first == second
    assert len(first) == 2
    supply.close()
    assert not any(Path(f"/proc/{process}").exists() for process in first)
    assert not processes(supply) & first
    supply.close()


def test_a_bad_image_of_any_stream_takes_the_place_of_its_batch() -> None:
    supply = loader(Plain(), EpochBatches(4, 4, 0, 0, 1), 0, {"more": Stream(Plain(bad=2), 5, 5)})
    (found,) = supply
    assert isinstance(found, DataError)
    assert str(found) == "plain: no such image"


def test_a_batch_is_split_with_its_other_streams() -> None:
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    other = TrainingBatch(torch.arange(6.0).reshape(6, 1, 1, 1), (target,) * 6)
    whole = TrainingBatch(torch.arange(4.0).reshape(4, 1, 1, 1), (target,) * 4, {"more": other})
    parts = whole.to(torch.device("cpu")).split(2)
    assert [part.others["more"].images.flatten().tolist() for part in parts] == [[0, 1, 2], [3, 4, 5]]
    assert [len(part.others["more"].targets) for part in parts] == [3, 3]


@pytest.mark.parametrize(
    ("stream", "why"), [(Stream(Plain(), 9, 3), "3 images cannot be divided evenly"), (Stream(Plain(), 0, 2), "no images")]
)
def test_a_stream_that_cannot_be_dealt_out_is_refused(stream: Stream, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        StreamBatches(EpochBatches(8, 4, 0, 0, 2), {"more": stream})
