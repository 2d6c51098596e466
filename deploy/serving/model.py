"""A served bundle: its engine warmed up and tested, its sessions behind a batcher."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic, perf_counter

import numpy as np
from PIL import Image

from deploy.bundles.bundle import Bundle
from deploy.errors import ArtifactError
from deploy.precision import Batch
from deploy.prediction import preprocess
from deploy.prediction.predictor import decide
from deploy.runtimes import Raw, Session
from deploy.serving.batcher import Batcher, Pass
from deploy.serving.options import ServeConfig
from deploy.serving.refusals import Unknown

_SIZES = (1, 2, 4, 8)
_ABOUT = 1.02
"""Tolerance on the lowest time per image: a larger batch saves passes, but a slower one makes single requests wait for nothing."""
_TURNS, _SECONDS = 10, 1.5
"""Minimum number of rounds and minimum seconds when batch sizes are compared."""
_SCORE_DRIFT, _BOX_DRIFT, _CERTAIN = 0.02, 2.0, 0.3
"""Limits on the drift between an image on its own and in a batch: other GPU kernels round differently; mixed-up images differ fully."""


class Model:
    """See `open`. Every request takes a lease, so a replaced model closes only after its last answer."""

    def __init__(self, bundle: Bundle, name: str, version: int, batcher: Batcher, resources: ExitStack) -> None:
        self.bundle = bundle
        self.contract = bundle.manifest.contract
        self.name = name
        self.version = version
        self.batcher = batcher
        self._resources = resources
        self._leases = 0
        self._closed = False
        self._free = threading.Condition()

    @classmethod
    def open(cls, bundle: Bundle, config: ServeConfig, *, version: int = 1, observe: Callable[[Pass], None] | None = None) -> "Model":
        """Open the sessions, warm them up and test them.

        Raises:
            RuntimeUnavailable: the engine cannot run on this machine.
            ArtifactError: it is damaged or was built on a different machine, or its answers to the test are invalid.
        """
        with ExitStack() as stack:
            stack.callback(bundle.close)
            sessions = [stack.enter_context(bundle.open(threads=config.threads)) for _ in range(config.sessions)]
            test(bundle, sessions)
            size = config.max_batch_size or fastest_size(bundle, sessions[0])
            warm_up(bundle, sessions, size)
            Image.init()  # otherwise the first image of each format would wait for its decoder's import
            batcher = Batcher(sessions, max_batch_size=size, max_delay_s=config.max_queue_delay_ms / 1000, observe=observe)
            stack.callback(batcher.close)  # before the sessions
            return cls(bundle, config.name or bundle.manifest.name, version, batcher, stack.pop_all())

    def check_name(self, name: str | None, version: str | None) -> None:
        """Check that a request means this model; None means any model, and None or an empty text any version.

        Raises:
            Unknown: it has a different name or version.
        """
        if name is not None and name != self.name:
            raise Unknown(f"no model '{name[:100]}'; this server has {self.name}")
        if version and version != str(self.version):
            raise Unknown(f"no version '{version[:100]}' of {self.name}; this server has {self.version}")

    def take(self) -> bool:
        """Keep the model open until `give_back`; False if it is already closed."""
        with self._free:
            if not self._closed:
                self._leases += 1
            return not self._closed

    def give_back(self) -> None:
        """End the lease that `take` began."""
        with self._free:
            self._leases -= 1
            self._free.notify_all()

    def close(self) -> None:
        """Wait for the last request to end, then free the engine."""
        with self._free:
            self._free.wait_for(lambda: self._leases == 0)
            self._closed = True
        self._resources.close()


def test(bundle: Bundle, sessions: list[Session]) -> None:
    """Check that all sessions give the same valid answer to a synthetic image, twice in a row.

    Raises:
        ArtifactError: they do not.
    """
    images, placement = _images(bundle, 1)
    answers = [session.infer(images) for session in sessions for _ in range(2)]
    for raw in answers:
        decide(raw, placement, bundle.manifest.contract)
        if batch_drift(raw, answers[0]) > _SCORE_DRIFT:
            raise ArtifactError(f"{bundle.root}: its engine answers the same image differently from pass to pass; rebuild it")


def warm_up(bundle: Bundle, sessions: list[Session], max_batch_size: int) -> None:
    """Run batches of every size through every session, and compare the answers with those for single images.

    Raises:
        ArtifactError: a size cannot be run, or its answers differ from those for single images.
    """
    images, _ = _images(bundle, max_batch_size)
    alone = [sessions[0].infer(images[index : index + 1]) for index in range(max_batch_size)]
    for session in sessions:
        for size in range(2, max_batch_size + 1):
            try:
                raw = session.infer(images[:size])
            except ArtifactError as error:
                raise ArtifactError(f"{bundle.root}: cannot run a batch of {size}: {error}; set serve.max_batch_size lower") from error
            if max(batch_drift(alone[index], raw, index) for index in range(size)) > _SCORE_DRIFT:
                raise ArtifactError(f"{bundle.root}: answers of a batch of {size} differ from single ones; set serve.max_batch_size to 1")


def fastest_size(bundle: Bundle, session: Session) -> int:
    """The largest batch size (1, 2, 4 or 8) whose time per image is about the lowest; sizes are measured alternately."""
    sizes = {size: _images(bundle, size)[0] for size in (_SIZES if bundle.manifest.graph.dynamic_batch else (1,))}
    taken: dict[int, list[float]] = {}
    start = monotonic()
    while len(sizes) > 1 and (len(taken.get(1, ())) < _TURNS or monotonic() - start < _SECONDS):
        for size, images in list(sizes.items()):
            before = perf_counter()
            try:
                session.infer(images)
            except ArtifactError:
                sizes = {smaller: kept for smaller, kept in sizes.items() if smaller < size}  # an engine's profile may allow no more
                break
            taken.setdefault(size, []).append((perf_counter() - before) / size)
    if len(sizes) <= 1:
        return 1
    medians = {size: float(np.median(taken[size][1:])) for size in sizes}  # the first round warms up
    return max(size for size, seconds in medians.items() if seconds <= _ABOUT * min(medians.values()))


def batch_drift(one: Raw, other: Raw, index: int = 0) -> float:
    """Largest difference between the sorted scores of `one` and of image `index` of `other`; infinite if confident boxes differ."""
    mine, theirs = one.scores[0], other.scores[index]
    if all((getattr(one, name)[0] == getattr(other, name)[index]).all() for name in ("boxes", "scores", "labels")):
        return 0.0
    largest = float(np.abs(np.sort(mine) - np.sort(theirs)).max(initial=0.0))
    for number in np.flatnonzero(mine > _CERTAIN):
        alike = (other.labels[index] == one.labels[0, number]) & (theirs > 0)
        if not (np.abs(other.boxes[index] - one.boxes[0, number]).max(axis=1)[alike] < _BOX_DRIFT).any():
            return float("inf")
    return largest if np.isfinite(largest) else float("inf")


def _images(bundle: Bundle, count: int) -> tuple[Batch, preprocess.Placement]:
    """Noise with bright rectangles, [count, 3, H, W], each different."""
    chosen = bundle.manifest.contract.preprocessing
    random = np.random.default_rng(0)
    inputs = []
    for _ in range(count):
        image = random.integers(0, 256, (chosen.height, chosen.width, 3), dtype=np.uint8)
        top, left = random.integers(0, chosen.height // 2), random.integers(0, chosen.width // 2)
        image[top : top + chosen.height // 4, left : left + chosen.width // 4] = random.integers(0, 256, 3)
        tensor, placement = preprocess.apply(image, chosen)
        inputs.append(tensor)
    return np.stack(inputs), placement
