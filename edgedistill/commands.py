"""Commands as functions that return values instead of printing and exiting; log lines go to stderr."""

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.bundles.bundle import Bundle
from deploy.errors import ConfigError
from pipeline.commands.gate import GateOptions, GateResult, gate_bundle, gate_run
from pipeline.commands.run import FinishedRun, finish, open_store
from pipeline.config import PipelineConfig, load
from pipeline.store.store import Mode
from pipeline.terminal.answer import say
from pipeline.terminal.refusals import as_user_error

Folder = str | os.PathLike[str]


def load_config(path: Folder, settings: Sequence[str] = ()) -> PipelineConfig:
    """Read pipeline.yaml, with every default filled in.

    Args:
        settings: what `--set` accepts, "gates.0.min=0.5" for example.

    Raises:
        ConfigError: naming the file, the key, the value and what is allowed.
    """
    return load(Path(path), settings)


def run(config: PipelineConfig | Folder, *, runs: Folder = "runs", force: str | None = None) -> FinishedRun:
    """Run or reuse every stage, then judge, as `edgedistill run` does. Needs the extra `train`.

    A failed gate raises nothing: see `exit_code` of the result, and `summary["gates"]`.

    Args:
        config: pipeline.yaml, or what load_config returned.
        runs: the results folder.
        force: a stage to run again, with everything that depends on it.

    Raises:
        EdgedistillError: an error that the user can fix, with the exit code of the command.
    """
    with _user_errors():
        chosen = config if isinstance(config, PipelineConfig) else load_config(config)
        store = open_store(chosen, Path(runs), Mode(force=force), functools.partial(say, stream=sys.stderr))
        if store.num_processes > 1:
            raise ConfigError("run() works in one process; for several use: torchrun --no-python edgedistill run CONFIG")
        return finish(chosen, store)


def gate(
    subject: Bundle | PipelineConfig | Folder,
    *,
    reference: Folder | None = None,
    data: Folder | None = None,
    split: str | None = None,
    max_doubtful: float | None = None,
    runs: Folder = "runs",
) -> GateResult:
    """Judge a bundle, or the targets of a pipeline that has run, as `edgedistill gate` does; writes no gate.json.

    Args:
        subject: a bundle or its folder; or pipeline.yaml, or what load_config returned.
        reference: a kept bundle, or a folder with one per target. Both engines run alternately on this machine.
        data: labeled images in COCO's, YOLO's or VOC's layout to compare a bundle and its reference on.
        split: the split of `data` to judge on; None for the bundle's own.
        max_doubtful: the largest share of `data`, 0 to 1, that may be left out or assumed; None: 0.2.
        runs: the results folder of a pipeline.

    Raises:
        EdgedistillError: an error that the user can fix, with the exit code of the command.
    """
    kept, images = (None if folder is None else Path(folder) for folder in (reference, data))
    options = GateOptions(kept, images, split=split, max_doubtful=max_doubtful)
    with _user_errors():
        if not isinstance(subject, Bundle | PipelineConfig):
            subject = Bundle.load(subject) if Path(subject).is_dir() else load_config(subject)
        if isinstance(subject, Bundle):
            return gate_bundle(subject, options)
        return gate_run(subject, Path(runs), options)


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn every error that the command line would print as one line into an error of ours."""
    try:
        yield
    except Exception as error:
        known = as_user_error(error)
        if known is None or known is error:
            raise
        raise known from error
