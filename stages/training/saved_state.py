"""The state from which a stopped training continues: a folder that is complete at every moment."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator

from deploy.errors import ArtifactError, in_one_line
from stages.detectors.backbones.pretrained import DAMAGED

NAME = "resume"
_FRESH, _OLD, _USED = f"{NAME}.new", f"{NAME}.old", f"{NAME}.used"


class Stateful(Protocol):
    """What is saved with a training's weights, as plain values."""

    def state_dict(self) -> dict[str, Any]:
        """The values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> object:
        """Continue with saved values."""
        ...


class Progress:
    """How far training has come, and what was seen on the way; saved with the weights."""

    def __init__(self) -> None:
        self.epoch = 0
        self.step = 0
        self.rows: list[dict[str, float]] = []
        self.seen: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """For accelerate."""
        return {"epoch": self.epoch, "step": self.step, "rows": self.rows, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """For accelerate."""
        self.epoch, self.step, self.rows = state["epoch"], state["step"], list(state["rows"])
        self.seen = list(state.get("seen", ()))  # states of earlier versions have none


class SavedState:
    """The state of what `accelerator` has registered, in `folder`."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self._folder = folder
        self._accelerator = accelerator

    def save(self) -> None:
        """Replace the state: written completely to a folder next to it, then renamed.

        Raises:
            ArtifactError: the disk is full.
        """
        fresh, state, old = (self._folder / name for name in (_FRESH, NAME, _OLD))
        if self._accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        self._accelerator.wait_for_everyone()
        try:
            self._accelerator.save_state(str(fresh))
        except RuntimeError as error:  # what torch.save raises on a full disk, without saying so
            raise ArtifactError(f"{fresh}: cannot be written (is the disk full?); make room, or use a different folder (--runs)") from error
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            # at every moment a complete state has one of the two names, even if this run resumed from the old one
            if state.exists():
                shutil.rmtree(old, ignore_errors=True)
                state.rename(old)
            fresh.rename(state)
            shutil.rmtree(old, ignore_errors=True)
        self._accelerator.wait_for_everyone()

    def load(self) -> None:
        """Continue from the last complete state, if there is one.

        Raises:
            ArtifactError: it is damaged.
        """
        state = next((self._folder / name for name in (NAME, _OLD) if (self._folder / name).exists()), None)
        if state is None:
            return
        try:
            self._accelerator.load_state(str(state))
        except DAMAGED as error:
            raise ArtifactError(f"{state}: cannot be resumed from ({in_one_line(error)}); delete {self._folder} and run again") from error


def discard(folder: Path) -> None:
    """Delete a folder's state, renaming it first: half of it must never be resumed from."""
    state, used = folder / NAME, folder / _USED
    for leftover in (folder / _OLD, folder / _FRESH, used):
        shutil.rmtree(leftover, ignore_errors=True)
    if state.exists():
        state.rename(used)
    shutil.rmtree(used, ignore_errors=True)
