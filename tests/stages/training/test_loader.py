"""Loader processes and Ctrl-C, which a terminal sends to every process of the run."""

import signal
from pathlib import Path

import pytest
import tiny

from stages.training.batches.loader import TrainingImages, loader
from stages.training.batches.streams import EpochBatches


class Interrupts(TrainingImages):
    """Tells in place of its images whether Ctrl-C waits in the process that reads them."""

    def __getitem__(self, key: tuple[int, int]) -> bool:  # type: ignore[override]
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize(("workers", "waits"), [(1, True), (0, False)])
def test_only_a_process_that_was_started_for_images_does_not_hear_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, waits: bool
) -> None:
    monkeypatch.setattr("stages.training.batches.loader.collate", list)
    images = Interrupts(tiny.dataset(tmp_path / "digits", size=64), tiny.schedule(), seed=0, masks=False)
    found = [one for batch in loader(images, EpochBatches(len(images), 4, 0, 0, 1), workers) for one in batch]
    assert set(found) == {waits}
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
