"""A bundle that is being served: its engine warmed up and tested, its sessions behind a batcher."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic, perf_counter

import numpy as np
from PIL import Image

from deploy import preprocess
from deploy.bundle import Bundle
from deploy.errors import ArtifactError
from deploy.predictor import decide
from deploy.runtimes import Batch, Raw, Session
from deploy.serving.batcher import Batcher, Pass
from deploy.serving.options import ServeConfig

_SIZES = (1, 2, 4, 8)
_BETTER = 1.1
"""A larger batch must be faster by so much, for it makes single requests wait."""
_TURNS, _SECONDS = 8, 1.0
"""At least, when batch sizes are compared."""
_SCORE_DRIFT = 0.02
"""Between an image alone and in a batch; a GPU may choose other kernels, and half precision rounds otherwise, a mixture differs in full."""


class Model:
    """See `open`. A request leases it, so that a model which is replaced closes after its last answer."""

    def __init__(self, bundle: Bundle, name: str, version: int, batcher: Batcher, resources: ExitStack) -> None:
        self.bundle = bundle
        self.contract = bundle.manifest.contract
        self.name = name
        self.version = version
        self.batcher = batcher
        self._resources = resources
        self._leases = 0
        self._free = threading.Condition()

    @classmethod
    def open(cls, bundle: Bundle, config: ServeConfig, *, version: int = 1, observe: Callable[[Pass], None] | None = None) -> "Model":
        """Open the sessions, warm them up and test them.

        Raises:
            RuntimeUnavailable: the engine cannot run on this machine.
            ArtifactError: it is damaged or foreign, or its answers to the test cannot be used.
        """
        with ExitStack() as stack:
            sessions = [stack.enter_context(bundle.open(threads=config.threads)) for _ in range(config.sessions)]
            test(bundle, sessions)
            size = config.max_batch_size or fastest_size(bundle, sessions[0])
            warm_up(bundle, sessions, size)
            Image.init()  # else the first image of each format would wait for its decoder's import
            batcher = Batcher(sessions, max_batch_size=size, max_delay_s=config.max_queue_delay_ms / 1000, observe=observe)
            stack.callback(batcher.close)  # before the sessions
            return cls(bundle, config.name or bundle.manifest.name, version, batcher, stack.pop_all())

    @contextmanager
    def lease(self) -> Iterator["Model"]:
        """Keep it open meanwhile."""
        with self._free:
            self._leases += 1
        try:
            yield self
        finally:
            with self._free:
                self._leases -= 1
                self._free.notify_all()

    def close(self) -> None:
        """Wait for the last lease to end, then free the engine."""
        with self._free:
            self._free.wait_for(lambda: self._leases == 0)
        self._resources.close()


def test(bundle: Bundle, sessions: list[Session]) -> None:
    """Every session answers a drawn image twice alike, with boxes that can be used.

    Raises:
        ArtifactError: it does not.
    """
    images, placement = _images(bundle, 1)
    answers = [session.infer(images) for session in sessions for _ in range(2)]
    for raw in answers:
        decide(raw, placement, bundle.manifest.contract)
        if drift(raw, answers[0]) > _SCORE_DRIFT:
            raise ArtifactError(f"{bundle.root}: its engine answers the same image differently from pass to pass; build it again")


def warm_up(bundle: Bundle, sessions: list[Session], max_batch_size: int) -> None:
    """Pass batches of every size through every session, and compare each with the images alone.

    Raises:
        ArtifactError: a size cannot be run, or its answers are not those of single images.
    """
    images, _ = _images(bundle, max_batch_size)
    alone = [sessions[0].infer(images[index : index + 1]) for index in range(max_batch_size)]
    for session in sessions:
        for size in range(2, max_batch_size + 1):
            try:
                raw = session.infer(images[:size])
            except ArtifactError as error:
                raise ArtifactError(f"{bundle.root}: no batch of {size}: {error}; set serve.max_batch_size lower") from error
            if max(drift(alone[index], raw, index) for index in range(size)) > _SCORE_DRIFT:
                raise ArtifactError(f"{bundle.root}: answers of a batch of {size} differ from single ones; set serve.max_batch_size to 1")


def fastest_size(bundle: Bundle, session: Session) -> int:
    """The batch size, a power of two up to 8, at which an image takes the engine the least time; sizes take turns."""
    sizes = {size: _images(bundle, size)[0] for size in (_SIZES if bundle.manifest.graph.dynamic_batch else (1,))}
    taken: dict[int, list[float]] = {}
    start = monotonic()
    while len(sizes) > 1 and (len(taken.get(1, ())) < _TURNS or monotonic() - start < _SECONDS):
        for size, images in list(sizes.items()):
            before = perf_counter()
            try:
                session.infer(images)
            except ArtifactError:
                sizes = {smaller: kept for smaller, kept in sizes.items() if smaller < size}  # an engine's profile may end here
                break
            taken.setdefault(size, []).append((perf_counter() - before) / size)
    best = 1
    for size in sizes:
        if size > 1 and np.median(taken[size][1:]) * _BETTER < np.median(taken[best][1:]):  # the first turn warms up
            best = size
    return best


def drift(one: Raw, other: Raw, index: int = 0) -> float:
    """By how much the scores, sorted, of the first image of one answer and the `index`-th of another differ at most."""
    return float(np.abs(np.sort(one.scores[0]) - np.sort(other.scores[index])).max(initial=0.0))


def _images(bundle: Bundle, count: int) -> tuple[Batch, preprocess.Placement]:
    """Noise with bright rectangles, [count, 3, H, W], each another."""
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
