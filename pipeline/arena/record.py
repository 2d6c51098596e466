"""runs/<name>/compare.lock.json: what the processes that share a comparison agree on, so that none trains something else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from deploy.errors import ConfigError
from deploy.machine.packages import DISTRIBUTION, version
from pipeline.arena.bouts import Bouts
from pipeline.arena.variants import Variant, with_share
from pipeline.store import keys
from pipeline.store.files import json_text, replace_json
from pipeline.store.store import Mode

DECISIVE = (DISTRIBUTION, "torch", "numpy")
"""Packages whose version decides the bits of a result."""


def agree(bouts: Bouts) -> None:
    """Join a comparison that others have begun, or begin it.

    Raises:
        ConfigError: they train something else, or with other versions; the message names the first difference.
    """
    own, file = _terms(bouts), record_of(bouts)
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file):
        theirs = _read(file)
        if theirs is None:
            replace_json(file, own)
            return
    difference = _difference(theirs, own)
    if difference is not None:
        remedy = "start every process with the same installation, file and options"
        raise ConfigError(f"this process would not train what the others of {file} do: {difference}; {remedy}, or delete that file")


def close(bouts: Bouts) -> None:
    """Forget the agreement, for all is trained; one on other trainings, which others may still share, stays."""
    file = record_of(bouts)
    if not file.exists():
        return
    own = json_text(_terms(bouts)).encode()
    with _locked(file):
        if file.exists() and file.read_bytes() == own:
            file.unlink()


def record_of(bouts: Bouts) -> Path:
    """The file."""
    return bouts.arena.store.root / bouts.arena.config.name / "compare.lock.json"


def _locked(file: Path) -> FileLock:
    return FileLock(file.with_name(f".{file.name}.lock"))


def _terms(bouts: Bouts) -> dict[str, Any]:
    """Versions, methods, seeds, and everything that the first training of each kind depends on."""
    arena, field = bouts.arena.looking(Mode(dry=True)), bouts.lineup
    kinds: list[Variant] = [*bouts.costs.baselines(), *(with_share(one, field.shares[0]) for one in field.methods)]
    calls = {one.name: arena.call(one, field.seeds[0]) for one in kinds}
    return {
        "format": 1,
        "versions": {name: version(name) or "not installed" for name in DECISIVE},
        "plan": {
            "methods": [one.name for one in field.methods],
            "seeds": [*field.seeds],
            "shares": [*field.shares],
            "tuning split": str(arena.config.compare.tuning_split),
            "control": str(arena.config.compare.control),
        },
        "trainings": {name: keys.parts_of(stage, *arguments) for name, (stage, arguments) in calls.items()},
    }


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{file} is not readable ({error}); delete it") from error
    if not isinstance(found, dict) or found.get("format") != 1:
        raise ConfigError(f"{file} was written by a different version of {DISTRIBUTION}; start every process with the same, or delete it")
    return found


def _difference(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    for group in ("versions", "plan"):
        old, new = (dict(keys.flat(one[group])) for one in (theirs, own))
        for path in [*new, *(path for path in old if path not in new)]:
            if old.get(path) != new.get(path):
                return f"{path} {old.get(path, '(none)')} -> {new.get(path, '(none)')}"
    for name in dict.fromkeys((*own["trainings"], *theirs["trainings"])):
        before, parts = theirs["trainings"].get(name), own["trainings"].get(name)
        if before is None or parts is None:
            return f"{name}: {'(none) -> trained' if before is None else 'trained -> (none)'}"
        if before != parts:
            return f"{name}: {keys.difference(before, parts)}"
    return None
