"""The folders of the stages' results, each named after the hash of everything that the result depends on.

runs/.store/<stage>-<hash>/            a finished artifact with stage.json: seconds, sizes and hashes of its files, contents of its inputs
runs/.store/.<stage>-<hash>.partial/   scratch, renamed when complete; a resumable stage continues from what a kill left there
runs/.store/.files.json                what was found in files of the data, with their sizes and times
runs/.store/.<stage>-<hash>.lock       held by the process that runs the stage
runs/<name>/lock.json                  what the last run of each stage depended on, to explain why it is stale
"""

import copy
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, get_type_hints

from filelock import FileLock, Timeout

from deploy.errors import ConfigError, EdgedistillError, in_one_line
from deploy.machine import known_files
from pipeline.store import keys
from pipeline.store.files import make_folder, replace_folder, replace_json
from pipeline.store.past import remembered
from pipeline.store.peers import Peers
from pipeline.store.stamp import Inputs, changed, content, finished, outdated, stamp, stamped
from pipeline.terminal.answer import silent
from stages.artifacts import Artifact

P = ParamSpec("P")
A = TypeVar("A", bound=Artifact)

POLL_SECONDS = 0.2


class NothingMeasured(EdgedistillError):
    """A command that only reads the store found a stage that has not run with this configuration."""

    exit_code = 12


class TakenElsewhere(Exception):
    """A different process runs the stage, and this one is not to wait."""


class UntilReached(Exception):
    """The stage named by --until has run, and the flow has reached the next one."""


@dataclass(frozen=True)
class StageRecord:
    """One stage instance of a run.

    name: the stage; instance: the same, with ":<label>" if it runs several times ("optimize:cpu-int8").
    key: its folder in the store. seconds: how long it took when it ran (if it was resumed, since then); null in a dry run if it
    never ran.
    reason: why it had to run; null if `reused`.
    """

    name: str
    instance: str
    key: str
    seconds: float | None
    reused: bool
    reason: str | None


@dataclass(frozen=True)
class Mode:
    """How a store treats stages that have no result yet.

    force: a stage (or instance) to run again with everything that depends on it. until: the stage to stop after.
    interim: instances of a stage after which it runs again.
    dry: run nothing, only report what would run. only: the stages that may run; any other raises NothingMeasured.
    wait: whether to wait for a stage that a different process runs; otherwise it raises TakenElsewhere.
    """

    force: str | None = None
    until: str | None = None
    dry: bool = False
    only: Collection[str] | None = None
    interim: Collection[str] = ()
    wait: bool = True


@dataclass
class Store:
    """Runs stages, or finds their earlier results.

    say: receives a line when a stage starts, ends or is reused. before: what is called before a stage of that name runs.
    """

    root: Path
    name: str
    mode: Mode = Mode()
    say: Callable[[str], None] = silent
    label: str | None = None
    before: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    records: list[StageRecord] = field(default_factory=list)
    _forced: set[str] = field(default_factory=set)
    _last: dict[str, keys.Parts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.num_processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.peers = Peers.here()
        if self.mode.force and self.num_processes > 1:
            raise ConfigError("--force works in one process only; run it without torchrun, or delete the stage's folder in the store")
        self._last = remembered(self.lock_file)

    @property
    def lock_file(self) -> Path:
        """The file that records what the last run of each stage depended on."""
        return self.root / self.name / "lock.json"

    @property
    def folder(self) -> Path:
        """The artifacts' folder, which all runs in `root` share."""
        return self.root / ".store"

    def at(self, label: str) -> Self:
        """The same store for a stage that runs several times, once per label."""
        view = copy.copy(self)
        view.label = label
        return view

    def run(self, stage: Callable[Concatenate[Path, P], A], *args: P.args, **kwargs: P.kwargs) -> A:
        """The stage's artifact, made now or found in the store.

        Raises:
            UntilReached: the run was to stop before this stage.
            NothingMeasured: the artifact does not exist, and the stage may not run.
            TakenElsewhere: a different process runs the stage, and the mode is not to wait.
        """
        name = keys.name(stage)
        self._end_before(name)
        with self._with_peers():
            return self._found_or_made(stage, name, args, kwargs)

    def _found_or_made(self, stage: Callable[..., A], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> A:
        if not (alone := self.mode.dry or self.mode.only is not None):
            self.peers.meet(self.root)
        with self._known_files():
            parts = keys.parts_of(stage, *args, **kwargs)
        path = self.folder / keys.key_of(parts)
        inputs = {one: self._content(given.root) for one, given in keys.inputs_of(stage, *args, **kwargs).items()}
        instance = f"{name}:{self.label}" if self.label else name
        if not alone:
            self.peers.agree(instance, parts, keys.difference)
        reason = self._why_stale(instance, parts, path, inputs)
        if reason is not None and not self.mode.dry:
            if self.mode.only is not None and name not in self.mode.only:
                raise NothingMeasured(f"nothing measured for this configuration ({instance}: {reason}); run: edgedistill run")
            if name in self.before:
                self.before[name]()
            with self._known_files():
                reason = self._make(stage, path, instance, reason, inputs, args, kwargs)
        made = stamped(path)
        seconds = None if made is None else float(made["seconds"])
        if reason is None:
            self.say(f"{instance:<28} reused")
        self.records.append(StageRecord(name, instance, path.name, seconds, reason is None, reason))
        self._remember(instance, parts)
        kind: type[A] = get_type_hints(stage)["return"]
        return kind(path)

    @contextmanager
    def _with_peers(self) -> Iterator[None]:
        """Inside, the other processes of a torchrun learn of an error that ends this one, and theirs are told from those of torch."""
        try:
            yield
        except BaseException as error:
            known = self.peers.explain(error)
            self.peers.leave(in_one_line(known or error))
            if known is None:
                raise
            raise known from error

    def has(self, artifact: Artifact) -> bool:
        """Whether an artifact is complete; only a dry run returns others."""
        return finished(artifact.root) is not None

    def foresee(self, stage: Callable[..., A], reason: str) -> A:
        """In a dry run, the artifact of a stage whose arguments are not known yet: it would run, for this reason.

        Raises:
            UntilReached: the run was to stop before this stage.
        """
        name = keys.name(stage)
        self._end_before(name)
        path = self.folder / f"{name}-unknown"
        self.records.append(StageRecord(name, f"{name}:{self.label}" if self.label else name, path.name, None, reused=False, reason=reason))
        kind: type[A] = get_type_hints(stage)["return"]
        return kind(path)

    def _known_files(self) -> AbstractContextManager[None]:
        """Inside, files of the data that have not changed are not read again only to know them."""
        return known_files.kept_in(self.root / ".store" / ".files.json", writes=not self.mode.dry and self.rank == 0)

    def _end_before(self, name: str) -> None:
        until, interim = self.mode.until, self.mode.interim
        if until and name != until and any(one.name == until and one.instance not in interim for one in self.records):
            raise UntilReached(until)

    def _why_stale(self, instance: str, parts: keys.Parts, path: Path, inputs: Inputs) -> str | None:
        """The reason to run, or None if the artifact can be reused."""
        forced = next((f"input {name} runs again" for name, key in parts["inputs"].items() if key in self._forced), None)
        if self.mode.force in (parts["stage"], instance):
            forced = "forced"
        if forced:
            self._forced.add(path.name)
            return forced
        if (made := finished(path)) is not None:
            again = outdated(made, inputs)
            return None if again is None else f"input {again} {'was made' if inputs[again] else 'runs'} again"
        if (name := changed(path)) is not None:
            return f"{name} in the store is not as it was written"
        before = self._last.get(instance)
        if before is None:
            return "never ran"
        return keys.difference(before, parts) or "its result is gone"

    def _content(self, root: Path) -> str | None:
        """What an input holds; in a dry run that would make it again, something else than before."""
        return "" if self.mode.dry and any(one.key == root.name and not one.reused for one in self.records) else content(root)

    def _make(
        self,
        stage: Callable[..., Artifact],
        path: Path,
        instance: str,
        reason: str,
        inputs: Inputs,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> str | None:
        """Run the stage and return the reason; None if another process made the artifact in the meantime."""
        scratch = keys.scratch_of(path)
        if self.rank > 0:
            # the first process creates or clears the scratch folder before it joins the stage's process group; the others wait for that
            if keys.info(stage).distributed:
                stage(scratch, *args, **kwargs)
            while not _is_current(path, inputs):
                self.peers.check()
                time.sleep(POLL_SECONDS)
            return reason
        make_folder(scratch.parent)
        with self._locked(path, instance):
            again = path.name in self._forced
            if not again and _is_current(path, inputs):
                return None
            if again or not keys.info(stage).resumable:
                shutil.rmtree(scratch, ignore_errors=True)
            resumed = ", continues where it stopped" if scratch.exists() else ""
            scratch.mkdir(exist_ok=True)
            self.say(f"{instance:<28} running: {reason}{resumed}")
            started = time.perf_counter()
            stage(scratch, *args, **kwargs)
            seconds = time.perf_counter() - started
            stamp(scratch, instance, seconds, inputs)
            replace_folder(scratch, path)
            self.say(f"{instance:<28} done in {seconds:.1f} s")
        return reason

    @contextmanager
    def _locked(self, path: Path, instance: str) -> Iterator[None]:
        lock = FileLock(keys.lock_of(path))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not self.mode.wait:
                raise TakenElsewhere(instance) from None
            if self.num_processes > 1:
                raise ConfigError(
                    f"{instance}: another edgedistill process is running it in {self.root}; wait until it has finished"
                ) from None
            self.say(f"{instance:<28} waiting: another process is running it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _remember(self, instance: str, parts: keys.Parts) -> None:
        silent = self.mode.dry or self.mode.only is not None or self.rank > 0
        if not silent and self._last.get(instance) != parts:
            self._last[instance] = parts
            replace_json(self.lock_file, {"format": 1, "stages": self._last})


def _is_current(path: Path, inputs: Inputs) -> bool:
    made = finished(path)
    return made is not None and outdated(made, inputs) is None
