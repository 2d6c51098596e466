"""What a server knows: the model it serves, who may ask, how much it takes on."""

import asyncio
import hmac
import re
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar

from starlette.types import Receive

from deploy.bundles.bundle import Bundle
from deploy.errors import ConfigError, EdgedistillError
from deploy.serving.admission import Admission
from deploy.serving.body import until_gone
from deploy.serving.detect import Work
from deploy.serving.logs import Log
from deploy.serving.metrics import Metrics
from deploy.serving.model import Model
from deploy.serving.options import MIB, ServeConfig
from deploy.serving.refusals import Busy, Gone, Unauthorized, Unknown

T = TypeVar("T")

_BODIES, _LEAST_BYTES = 4, 256 * MIB
"""Bodies of the largest size that may be in memory at once, and the bytes that always may."""


class Service:
    """Shared by HTTP and gRPC. `folder` is where a bundle is looked for at the start and at each swap."""

    def __init__(self, folder: Path, config: ServeConfig, *, allow_ungated: bool = False, log: Log | None = None) -> None:
        self.folder = folder
        self.config = config
        self.allow_ungated = allow_ungated
        self.log = log or Log()
        self.metrics = Metrics()
        self.admission = Admission(config.queue_size, max(_BODIES * config.max_body_bytes, _LEAST_BYTES))
        # a thread waits for the engine in each request
        self.pool = ThreadPoolExecutor(config.queue_size, thread_name_prefix="request")
        self.draining = False
        self._token = read_token(config.token_file)
        self._model: Model | None = None
        self._swapping = Lock()
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome."""
        return self._model is not None and not self.draining

    @property
    def guarded(self) -> bool:
        """Whether requests must carry a token."""
        return self._token is not None

    @contextmanager
    def lease(self, name: str | None = None, version: str | None = None) -> Iterator[Model]:
        """The model that is served now, for one request.

        Raises:
            Busy: none is loaded yet.
            Unknown: it has another name or version.
        """
        model = self._model
        while model is not None and not model.take():  # it was replaced between these two lines, and has closed
            model = self._model
        if model is None:
            raise Busy("the engine is being loaded; come again later")
        try:
            if name not in (None, model.name):
                raise Unknown(f"no model '{name}'; this server has {model.name}")
            if version not in (None, "", str(model.version)):
                raise Unknown(f"no version '{version}' of {model.name}; this server has {model.version}")
            yield model
        finally:
            model.give_back()

    def seconds(self, wanted_ms: float | None) -> float:
        """A request's time: what it asks for, at most the server's."""
        return (self.config.timeout_ms if wanted_ms is None else min(self.config.timeout_ms, wanted_ms)) / 1000

    def authorize(self, header: str | None) -> None:
        """Let a request pass that carries `Bearer <token>`.

        Raises:
            Unauthorized: it does not.
        """
        if self._token is None:
            return
        kind, _, given = (header or "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token):
            raise Unauthorized("give the server's token in the header Authorization: Bearer TOKEN")

    def load(self) -> None:
        """Open the bundle in the folder, warm it up, and serve it in place of the one before, which ends its requests and closes.

        Blocks for as long as that takes; meanwhile, and where it fails, the one before is served.

        Raises:
            EdgedistillError: the bundle is damaged, not gated, cannot run here, or fails its test.
        """
        with self._swapping:
            old = self._model
            try:
                new = self._open(1 if old is None else old.version + 1)
            except Exception as error:
                known = isinstance(error, EdgedistillError)
                more = {} if known else {"traceback": traceback.format_exception(error)}
                self.metrics.swap("refused")
                self.log.refused("bundle refused", folder=str(self.folder), reason=str(error), **more)
                raise
            if self._closing:
                new.close()
                raise Busy("the server is closing")
            self._model = new
            reason = new.bundle.why_ungated_here()
            self.metrics.serves(new.bundle, new.version, gated=reason is None)
            if old is not None:
                self.metrics.swap("done")
                old.close()
            about = {"model": new.name, "version": new.version, "max_batch_size": new.batcher.max_batch_size}
            self.log.info("serving", **about, gated=reason is None)

    def _open(self, version: int) -> Model:
        bundle = Bundle.load(self.folder.resolve())  # a link may be moved meanwhile
        if not self.allow_ungated:
            bundle.refuse_ungated_here()
        elif (reason := bundle.why_ungated_here()) is not None:
            self.log.warning("ungated bundle", folder=str(self.folder), reason=reason)
        return Model.open(bundle, self.config, version=version, observe=self.metrics.engine_pass)

    async def run(self, function: Callable[[], T], work: Work, receive: Receive) -> T:
        """Run a function on a thread; skip what is left of its work when the client goes away.

        Raises:
            Gone: it did.
        """
        running = asyncio.get_running_loop().run_in_executor(self.pool, function)
        gone = asyncio.ensure_future(until_gone(receive))
        gone.add_done_callback(lambda _: work.cancel())
        try:
            answer = await running
            if gone.done():
                raise Gone("the client went away")
            return answer
        finally:
            gone.cancel()

    def close(self) -> None:
        """Free the engine and the threads; a bundle that is being loaded is let go."""
        self._closing = True
        self.pool.shutdown(wait=True, cancel_futures=True)
        with self._swapping:
            model, self._model = self._model, None
        if model is not None:
            model.close()


def read_token(file: Path | None) -> bytes | None:
    """The first line of the file.

    Raises:
        ConfigError: it cannot be read, or holds none of at least 16 printable characters.
    """
    if file is None:
        return None
    try:
        token = file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"serve.token_file {file}: {getattr(error, 'strerror', None) or 'not text'}") from error
    if not re.fullmatch(r"[!-~]{16,}", token):
        raise ConfigError(
            f"serve.token_file {file}: its first line must hold 16 or more letters, digits or signs; openssl rand -hex 32 makes one"
        )
    return token.encode()
