"""What the last runs depended on, as their lock.json remembers it."""

import json
from collections.abc import Collection
from pathlib import Path

from pipeline.store import keys


def remembered(path: Path) -> dict[str, keys.Parts]:
    """What each stage of the last run depended on, by its name; empty if the file is missing or is none of ours."""
    try:
        stages = json.loads(path.read_bytes())["stages"]
        return {instance: parts for instance, parts in stages.items() if keys.are_parts(parts)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def past_stages(root: Path, names: Collection[str]) -> dict[str, keys.Parts]:
    """What artifacts of these names depended on, and in turn their inputs, as far as the last runs in `root` remember it.

    A folder's name is the hash of that, so that what is returned is what the name stands for.
    """
    known = {keys.key_of(parts): parts for file in sorted(root.glob("*/lock.json")) for parts in remembered(file).values()}
    found: dict[str, keys.Parts] = {}
    queue = sorted(names)
    while queue:
        name = queue.pop(0)
        if name in known and name not in found:
            found[name] = known[name]
            queue += sorted(known[name]["inputs"].values())
    return found
