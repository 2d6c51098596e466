"""What the store must know about a stage function in addition to its name, configuration and inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

C = TypeVar("C", bound=Callable[..., Any])


@dataclass(frozen=True)
class StageInfo:
    """How a stage is hashed and run.

    `version` is raised whenever the stage's result changes for the same arguments. `identity` maps the stage's arguments
    to what else its result depends on: the content of files, the runtime, the machine. A `resumable` stage finds what a
    killed run left in its folder. A `distributed` stage runs in every process under torchrun, others only in the first.
    """

    version: int
    identity: Callable[..., Mapping[str, Any]] | None = None
    resumable: bool = False
    distributed: bool = False


def stage(
    *,
    version: int,
    identity: Callable[..., Mapping[str, Any]] | None = None,
    resumable: bool = False,
    distributed: bool = False,
) -> Callable[[C], C]:
    """Mark a function `(out: Path, *artifacts and configs) -> Artifact` as a stage; see StageInfo."""

    def mark(function: C) -> C:
        function.__dict__["stage_info"] = StageInfo(version, identity, resumable, distributed)
        return function

    return mark
