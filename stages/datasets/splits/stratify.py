"""Holds out a share of the groups of images so that every class has the same share of its images on both sides.

Method: Sechidis et al., "On the Stratification of Multi-label Data", ECML PKDD 2011,
https://doi.org/10.1007/978-3-642-23808-6_10. The rarest class is distributed first, each of its groups to the side that lacks most
images of it. Departures: what is distributed are groups of several images, the largest first; afterwards single groups change sides,
or two swap them, until the number of images is right and every class that can be on both sides is. The class comes first within SLACK.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Side = NDArray[np.bool_]
Cost = tuple[float, ...]

SLACK = 0.05
"""Share of all images by which the number held out may depart from what was asked for, if a class is then on both sides."""
TRIED = 64
"""Number of groups with an absent class that are tried in a swap."""
MOST = 2048
"""Number of groups per side that are tried otherwise."""


@dataclass(frozen=True)
class _Task:
    """Groups' numbers of images [G], of images with each class [G, L], and the number of images to hold out."""

    sizes: Numbers
    counts: Numbers
    target: int

    @property
    def share(self) -> float:
        return self.target / int(self.sizes.sum())

    def costs(self, size: Numbers, held: Numbers) -> NDArray[np.float64]:
        """What is wrong [N, 5] when `size` [N] images are held out, `held` [N, L] of each class; the first column matters most."""
        total, classes = int(self.sizes.sum()), self.counts.sum(axis=0)
        gap = np.abs(size - self.target)
        divisible = (self.counts > 0).sum(axis=0) >= 2
        absent = ((held == 0) & divisible).sum(axis=1) + ((held == classes) & (classes > 0)).sum(axis=1)
        uneven = ((held - self.share * classes) ** 2 / np.maximum(classes, 1)).sum(axis=1)
        return np.stack([(size == 0) | (size == total), np.maximum(gap - SLACK * total, 0), absent, gap, uneven], axis=1)

    def cost(self, out: Side) -> Cost:
        return tuple(self.costs(self.sizes[out].sum()[None], self.counts[out].sum(axis=0)[None])[0])


def hold_out(sizes: Numbers, counts: Numbers, share: float) -> Side:
    """Which groups are held out [G]; among equals the first ones are kept.

    Args:
        sizes: [G] at least two groups' numbers of images.
        counts: [G, L] the number of images with an object of each class.
        share: of all images, above 0 and below 1.
    """
    total = int(sizes.sum())
    task = _Task(sizes, counts, min(max(round(share * total), 1), total - 1))
    out = _distribute(task)
    now = task.cost(out)
    while True:
        move = min(_moves(task, out), default=None)
        if move is None or move[0] >= now:
            return out
        now = move[0]
        out[list(move[1])] ^= True


def _distribute(task: _Task) -> Side:
    """Iterative stratification."""
    shares = np.array([1 - task.share, task.share])
    lacking = shares[:, None] * task.counts.sum(axis=0)
    room = shares * task.sizes.sum()
    left = task.counts.sum(axis=0)
    side: Numbers = np.full(len(task.sizes), -1)
    while (side < 0).any():
        rarest = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max))) if left.any() else None
        chosen = np.flatnonzero((side < 0) & (task.counts[:, rarest] > 0 if rarest is not None else True))
        for row in chosen[np.argsort(-task.sizes[chosen], kind="stable")]:
            kept, held = ((0.0 if rarest is None else lacking[to, rarest], room[to]) for to in (0, 1))
            side[row] = to = int(held > kept)
            lacking[to] -= task.counts[row]
            room[to] -= task.sizes[row]
            left -= task.counts[row]
    held_out: Side = side == 1
    return held_out


def _moves(task: _Task, out: Side) -> Iterator[tuple[Cost, tuple[int, ...]]]:
    """The best ways to move one group to the other side, and to swap one that has an absent class with one that has not."""
    size, held, classes = task.sizes[out].sum(), task.counts[out].sum(axis=0), task.counts.sum(axis=0)
    signs = np.where(out, -1, 1)
    wanted = np.flatnonzero(((task.counts > 0) & np.where(out[:, None], held == classes, held == 0)).any(axis=1))[:TRIED]
    tried = np.concatenate([np.flatnonzero(out)[:MOST], np.flatnonzero(~out)[:MOST]])
    rows = np.union1d(tried, wanted)
    yield _best(task, size + signs[rows] * task.sizes[rows], held + signs[rows, None] * task.counts[rows], rows[:, None])
    for row in wanted:
        others = tried[out[tried] != out[row]]
        if len(others):
            sizes = signs[row] * (task.sizes[row] - task.sizes[others])
            counts = signs[row] * (task.counts[row] - task.counts[others])
            yield _best(task, size + sizes, held + counts, np.stack([np.full(len(others), row), others], axis=1))


def _best(task: _Task, size: Numbers, held: Numbers, moves: NDArray[np.intp]) -> tuple[Cost, tuple[int, ...]]:
    costs = task.costs(size, held)
    first = np.lexsort(costs.T[::-1])[0]
    return tuple(map(float, costs[first])), tuple(map(int, moves[first]))
