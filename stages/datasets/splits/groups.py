"""Images that belong together and must not be on both sides of a split.

Certainly: files of the same content, and Roboflow's augmented copies, `<original>.rf.<hash>.jpg`. Probably: images that look alike,
and frames whose names follow each other and that still show the same scene.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import PurePosixPath

from stages.datasets.cleaning.image_file import ImageFile
from stages.datasets.cleaning.likeness import Looks, next_frame

Link = tuple[int, int]
Group = list[int]

_COPY = re.compile(r"(.+)\.rf\.[0-9A-Za-z_-]+")
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Groups:
    """Images by position, each in exactly one group.

    `cut` are the images of a chain of similar images that was longer than half of all, and `links` the pairs that formed it.
    """

    groups: list[Group]
    cut: frozenset[int] = frozenset()
    links: tuple[Link, ...] = ()


def group(names: Sequence[str], files: Sequence[ImageFile], share: float) -> Groups:
    """Group images; a chain of similar images that holds more than half of them is cut into blocks of consecutive names.

    Args:
        names: file names relative to the data set's folder.
        files: what was found in each file, with fingerprints.
        share: blocks are small enough to hold out this share.
    """
    certain = [*_same([file.sha256 for file in files]), *_same([_original(name) for name in names])]
    probable = [*(link for chain in Looks([file.look for file in files]).chains() for link in pairwise(chain)), *_frames(names, files)]
    pieces, groups = _connected(len(names), certain), _connected(len(names), [*certain, *probable])
    longest = max(groups, key=len)
    if 2 * len(longest) <= len(names):
        return Groups(groups)
    inside = set(longest)
    parts = sorted((piece for piece in pieces if piece[0] in inside), key=lambda piece: min(_natural(names[one]) for one in piece))
    if len(parts) == 1:
        return Groups(groups)
    blocks = _blocks(parts, 2 * math.ceil(1 / share))
    return Groups([one for one in groups if one is not longest] + blocks, frozenset(inside), tuple(probable))


def _same(keys: Sequence[str | None]) -> Iterator[Link]:
    first: dict[str, int] = {}
    for position, key in enumerate(keys):
        if key is not None:
            yield first.setdefault(key, position), position


def _original(name: str) -> str | None:
    """The path of the image that an augmented copy was made of; None for an image that is not a copy."""
    path = PurePosixPath(name)
    copy = _COPY.fullmatch(path.stem)
    return None if copy is None else str(path.with_name(copy[1]))


def _frames(names: Sequence[str], files: Sequence[ImageFile]) -> Iterator[Link]:
    """Neighbors in a series of names that differ only in numbers, if they or copies of them show the same scene."""
    series: dict[tuple[str, str], dict[str, list[int]]] = {}
    for position, name in enumerate(names):
        path = PurePosixPath(_original(name) or name)
        series.setdefault((str(path.parent), _DIGITS.sub("#", path.name)), {}).setdefault(path.name, []).append(position)
    for frames in series.values():
        for name, following in pairwise(sorted(frames, key=_natural)):
            for one, other in product(frames[name], frames[following]):
                if next_frame(files[one].look, files[other].look):
                    yield one, other


def _natural(name: str) -> list[str | int]:
    """A key that sorts frame_9 before frame_10; text and numbers alternate."""
    return [int(part) if index % 2 else part for index, part in enumerate(_DIGITS.split(name))]


def _connected(count: int, links: Iterable[Link]) -> list[Group]:
    """The connected components of `count` positions, each ascending, by their first position."""
    leader = list(range(count))

    def find(one: int) -> int:
        while leader[one] != one:
            leader[one] = leader[leader[one]]
            one = leader[one]
        return one

    for one, other in links:
        low, high = sorted((find(one), find(other)))
        leader[high] = low
    found: dict[int, Group] = {}
    for position in range(count):
        found.setdefault(find(position), []).append(position)
    return list(found.values())


def _blocks(parts: Sequence[Group], count: int) -> list[Group]:
    """Consecutive parts joined into at most `count` blocks of about the same number of images."""
    total = sum(map(len, parts))
    blocks: dict[int, Group] = {}
    before = 0
    for part in parts:
        blocks.setdefault(before * count // total, []).extend(part)
        before += len(part)
    return list(blocks.values())
