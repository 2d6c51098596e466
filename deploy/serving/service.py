"""The state of a server: the model it serves, who may use it, how much load it accepts."""

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

from deploy import machine
from deploy.bundles.bundle import Bundle
from deploy.bundles.signature import SIGNATURE
from deploy.bundles.trust import ANYONE, Trust
from deploy.errors import ConfigError, EdgedistillError
from deploy.serving.admission import Admission
from deploy.serving.body import Limits, until_gone
from deploy.serving.clients import Proxies
from deploy.serving.decoders import Decoders
from deploy.serving.logs import Log
from deploy.serving.metrics import Metrics, Totals
from deploy.serving.model import Model
from deploy.serving.options import MIB, ServeConfig
from deploy.serving.refusals import Busy, Gone, Unauthorized
from deploy.serving.work import Work

T = TypeVar("T")

_BODIES, _LEAST_BYTES = 5, 256 * MIB
"""The memory limit for all bodies: this number of bodies of maximum size, but no less than this number of bytes."""


class Service:
    """Shared by HTTP and gRPC. The bundle is loaded from `folder` at the start and at each swap."""

    def __init__(
        self, folder: Path, config: ServeConfig, *, allow_ungated: bool = False, log: Log | None = None, trust: Trust = ANYONE
    ) -> None:
        self.folder = folder
        self.config = config
        self.allow_ungated = allow_ungated
        self.trust = trust
        self.log = log or Log()
        self.metrics = Metrics()
        most = max(_BODIES * config.max_body_bytes, _LEAST_BYTES)
        self.admission = Admission(config.queue_size, most, spare_bytes=most // 8)
        cores = max(1, machine.num_cores() // config.workers)
        self.decoders = Decoders(cores, config.max_pixels, config.queue_size, self.log)
        # each request has a thread that waits for the engine
        self.pool = ThreadPoolExecutor(config.queue_size, thread_name_prefix="request")
        self.draining = False
        self._proxies = Proxies(config.trusted_proxies)
        self._unpacking = asyncio.Semaphore(cores)
        self._token = read_token(config.token_file)
        self._model: Model | None = None
        self._swapping = Lock()
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether new requests are accepted."""
        return self._model is not None and not self.draining

    @property
    def guarded(self) -> bool:
        """Whether requests must carry a token."""
        return self._token is not None

    @contextmanager
    def lease(self, name: str | None = None, version: str | None = None) -> Iterator[Model]:
        """The current model, for one request.

        Raises:
            Busy: no model is loaded yet.
            Unknown: the model has a different name or version.
        """
        model = self._model
        while model is not None and not model.take():  # replaced and closed between these two lines
            model = self._model
        if model is None:
            raise Busy("the engine is being loaded; retry later")
        try:
            model.check_name(name, version)
            yield model
        finally:
            model.give_back()

    @contextmanager
    def admit(
        self, name: str | None = None, version: str | None = None, *, timeout_ms: float | None = None, client: str = ""
    ) -> Iterator[Work]:
        """Admit a request, and release what it holds at the end.

        It takes, in this order, a lease of the model, memory for its body (`limits`) and a place (`run`). Room and time are checked
        here, before a body is read, and again when the number of images is known (`Work.place`).

        Args:
            name: see `lease`; None if the name is in the body, to be checked by Model.check_name.
            version: likewise.
            timeout_ms: time that the request asks for; the server's limit applies if it is shorter.
            client: who takes turns with others, see `clients`.

        Raises:
            Busy: no model is loaded yet, all places or this client's share are taken, or the requests ahead would leave too little time.
            Unknown: the model has a different name or version.
        """
        with self.lease(name, version) as model, self.admission.claim(client) as claim:
            work = Work(model, claim, self.config.timeout_ms / 1000, client)
            work.limit(timeout_ms)
            work.check()
            yield work

    def client(self, host: str, connection: object) -> str:
        """Who counts as one client, see `clients.Proxies.client`."""
        return self._proxies.client(host, connection)

    def limits(self, work: Work) -> Limits:
        """Limits of an admitted request's body."""
        return Limits(self.config.max_body_bytes, work.seconds_left, work.claim.hold, self._unpacking)

    def authorize(self, header: str | None) -> None:
        """Check that a request carries `Bearer <token>`.

        Raises:
            Unauthorized: it does not.
        """
        if self._token is None:
            return
        kind, _, given = (header or "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token):
            raise Unauthorized("send the server's token in the header Authorization: Bearer TOKEN")

    def load(self) -> None:
        """Open the bundle in the folder, warm it up, and serve it instead of the previous one, which finishes its requests and closes.

        Blocks until that is done; in the meantime, and if it fails, the previous bundle is served.

        Raises:
            EdgedistillError: the bundle is damaged, not gated, cannot run on this machine, or fails its test.
        """
        with self._swapping:
            old = self._model
            new = self.opened(self.folder.resolve(), 1 if old is None else old.version + 1, self.config)  # a link may be moved later
            gated = new.bundle.why_ungated_here() is None
            replaced = self.take(new, gated=gated)
            if replaced is not None:
                replaced.close()
            about = {"model": new.name, "version": new.version, "max_batch_size": new.batcher.max_batch_size}
            self.log.info("serving", **about, manifest_sha256=new.bundle.digest, gated=gated)

    def opened(self, folder: Path, version: int, config: ServeConfig) -> Model:
        """The bundle in a folder, open, warm and tested, to be served by `take`.

        Raises:
            EdgedistillError: see `load`.
        """
        try:
            return self._open(folder, version, config)
        except Exception as error:
            known = isinstance(error, EdgedistillError)
            more = {} if known else {"traceback": traceback.format_exception(error)}
            self.metrics.swap("refused")
            self.log.refused("bundle refused", folder=str(self.folder), reason=str(error), **more)
            raise

    def take(self, new: Model, *, gated: bool, counts: bool = True) -> Model | None:
        """Serve a model from now on; the previous one, which is to be closed, which waits for its requests.

        Args:
            gated: whether its gates passed on such a machine.
            counts: whether this process counts the swap.
        """
        if self._closing:
            new.close()
            raise Busy("the server is closing")
        old, self._model = self._model, new
        self.metrics.serves(new.bundle, new.version, gated=gated)
        if old is not None and counts:
            self.metrics.swap("done")
        elif counts and not self.trust:
            signed = new.bundle.file(SIGNATURE).exists()
            advice = "pass --trusted KEY" if signed else "sign it: edgedistill sign BUNDLE --key FILE"
            self.log.info("signature not checked" if signed else "unsigned bundle", folder=str(self.folder), advice=advice)
        return old

    def _open(self, folder: Path, version: int, config: ServeConfig) -> Model:
        bundle = Bundle.load(folder, self.trust)
        try:
            if not self.allow_ungated:
                bundle.refuse_ungated_here()
            elif (reason := bundle.why_ungated_here()) is not None:
                self.log.warning("ungated bundle", folder=str(self.folder), reason=reason)
            return Model.open(bundle, config, version=version, observe=self.metrics.engine_pass)
        except BaseException:
            bundle.close()
            raise

    async def metrics_text(self) -> str:
        """The metrics of the server in Prometheus' format."""
        return self.metrics.text(pending=self.admission.pending, ready=self.ready).decode()

    async def totals(self) -> Totals:
        """The sums over all passes."""
        return self.metrics.total

    async def run(self, work: Work, function: Callable[[], T], *, num_images: int = 1, receive: Receive | None = None) -> T:
        """Take a place and run a function on a thread; if the client goes away, the rest of its work is skipped.

        Args:
            num_images: number of images in the request; 1 if the function counts them, and then calls Work.place.
            receive: reports that an HTTP client went away; None for gRPC, which cancels the task.

        Raises:
            Busy: all places are taken, or the requests ahead would leave too little time.
            Gone: the client went away.
        """
        work.place(num_images)
        running = asyncio.get_running_loop().run_in_executor(self.pool, function)
        gone = asyncio.ensure_future(until_gone(receive)) if receive else asyncio.Future[None]()
        gone.add_done_callback(lambda _: work.cancel())
        try:
            answer = await asyncio.shield(running)
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait((running,))  # the thread uses the model until then
            raise
        else:
            if gone.done():
                raise Gone("the client went away")
            return answer
        finally:
            gone.cancel()
            del running  # its error's traceback holds this frame, so both and the body would be there until the next garbage collection

    def close(self) -> None:
        """Free the engine and the threads; a bundle that is being loaded is discarded."""
        self._closing = True
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.decoders.close()
        with self._swapping:
            model, self._model = self._model, None
        if model is not None:
            model.close()
        self.log.flush()


def read_token(file: Path | None) -> bytes | None:
    """The token in the file's first line.

    Raises:
        ConfigError: the file cannot be read, or the line is not 16 or more printable characters.
    """
    if file is None:
        return None
    try:
        token = file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"serve.token_file {file}: {getattr(error, 'strerror', None) or 'not text'}") from error
    if not re.fullmatch(r"[!-~]{16,}", token):
        raise ConfigError(
            f"serve.token_file {file}: its first line must be 16 or more letters, digits or symbols; openssl rand -hex 32 generates one"
        )
    return token.encode()
