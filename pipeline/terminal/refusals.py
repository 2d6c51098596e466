"""Errors as the message and the exit code that the user sees."""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from deploy.errors import ArtifactError, ConfigError, EdgedistillError
from deploy.machine.files import NotRegular

INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM
"""What shells report of a program that was ended by SIGTERM."""

_EXTRAS = {
    "build": ("onnx",),
    "train": (
        *("accelerate", "jinja2", "mlxtend", "onnxscript", "pycocotools"),
        *("safetensors", "scipy", "skimage", "sklearn", "tensorboard", "torch", "torchvision"),
    ),
    "serve": ("google", "grpc", "httptools", "multipart", "prometheus_client", "python_multipart", "starlette", "uvicorn"),
    "signing": ("model_signing", "OpenSSL"),
    "timm": ("timm",),
    "transformers": ("transformers",),
}
_UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
)
_FULL = "No space left on device"
"""What safetensors and torch write into their messages on a full disk, in errors without an errno."""

_NOWHERE = "No usable temporary directory"
"""What tempfile says where no folder for temporary files can be written to."""


EXIT_CODES = """\
exit codes:
  0   ok
  1   unexpected error, with its traceback
  2   configuration or command line
  3   images or annotations
  4   checkpoint, bundle or engine; results that cannot be written
  5   export or build; a target with `required: true` that cannot be measured here
  10  a gate failed
  11  a gate is inconclusive
  12  nothing to compare: no measurement, or a gate on a target that cannot be measured here
  130 interrupted by Ctrl-C
  143 ended by SIGTERM
"""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends everything as Ctrl-C does."""


@contextmanager
def sigterm_raises() -> Iterator[list[int]]:
    """SIGTERM raises Terminated in the main thread, unless somebody handles or ignores it already; gives the list of those that came."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield came
        return
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process forked from this one
            end_by_sigterm()
        came.append(number)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_by_sigterm() -> None:
    """End as if nothing had handled the signal, so that whoever sent it sees that it was obeyed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def refusal(error: BaseException) -> tuple[int, str] | None:
    """The exit code and the message for an error that the user can fix; None for an unexpected one."""
    if any(isinstance(cause, Terminated) for cause in _chain(error)):
        return TERMINATED, str(error).replace("interrupted", "terminated") or "terminated; run the same command again to continue"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; run the same command again to continue"
    known = as_user_error(error)
    return None if known is None else (known.exit_code, " ".join(str(known).split()))


def as_user_error(error: BaseException) -> EdgedistillError | None:
    """An error that the user can fix, as one of ours: a full or read-only disk, a missing extra; None for an unexpected one."""
    if isinstance(error, EdgedistillError):
        return error
    for cause in _chain(error):
        if isinstance(cause, OSError) and (known := _place_problem(cause)) is not None:
            return known
        if _FULL in str(cause):
            return ArtifactError(f"{_FULL}; free some, or choose a different folder (--runs, --out)")
        if isinstance(cause, ModuleNotFoundError) and (extra := _extra(cause)):
            return ConfigError(f"this needs {cause.name}, which is not installed; run: pip install 'edgedistill[{extra}]'")
    return None


def _place_problem(error: OSError) -> EdgedistillError | None:
    """What is wrong with the place that an error of the system names; None if that is not for the user to change."""
    if isinstance(error, NotRegular):
        return ArtifactError(f"{error.filename}: {error.strerror}")
    if error.errno in _UNWRITABLE:
        place = error.filename2 or error.filename  # when copying, the second is the file being written
        problem = f"{f'{place}:' if place else 'results'} cannot be written ({error.strerror})"
        return ArtifactError(f"{problem}; free space or change permissions, or choose a different folder (--runs, --out)")
    if _NOWHERE in str(error):
        return ArtifactError(f"{error.strerror}; free space there, or set TMPDIR to a folder with room")
    if isinstance(error, FileNotFoundError) and error.filename is None and _is_nowhere():
        return ConfigError("the working directory was deleted; change into one that exists")
    return None


def _is_nowhere() -> bool:
    """Whether the working directory is gone."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _extra(error: ModuleNotFoundError) -> str | None:
    root = (error.name or "").split(".")[0]
    return next((extra for extra, modules in _EXTRAS.items() if root in modules), None)
