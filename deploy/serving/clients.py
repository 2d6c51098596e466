"""Who counts as one client, and places that clients get in rotation, so that none waits behind everything that another one sent."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from math import inf
from threading import Event, Lock
from typing import Generic, TypeVar
from urllib.parse import unquote

from deploy.serving.refusals import Busy

T = TypeVar("T")


def client_key(host: str) -> str:
    """What counts as one client: an IPv4 address, or the first 64 bits of an IPv6 address, which one subscriber has to itself."""
    address = _address(host)
    if isinstance(address, IPv6Address):
        return f"{ip_network((int(address) >> 64 << 64, 64)).network_address}/64"
    return str(address or host)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def peer_host(peer: str) -> str:
    """The address in gRPC's name of a peer, such as `ipv4:192.0.2.1:50000` or `ipv6:%5B2001:db8::1%5D:50000`."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


class Proxies:
    """Addresses whose connections belong to many clients."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ip_network(one, strict=False) for one in networks]

    def __contains__(self, host: str) -> bool:
        """Whether an address is a proxy's."""
        address = _address(host) if self._networks else None
        return address is not None and any(address in network for network in self._networks)

    def client(self, host: str, connection: object) -> str:
        """What counts as one client: `client_key`, or of a proxy each connection."""
        return f"{host} {connection}" if host in self else client_key(host)


class FairQueue(Generic[T]):
    """A queue from which clients are served in rotation, each in its own order; not locked."""

    def __init__(self) -> None:
        self._of: dict[str, deque[T]] = {}

    def append(self, client: str, one: T) -> None:
        """Queue one behind the client's others."""
        self._of.setdefault(client, deque()).append(one)

    def first(self) -> T:
        """The next one, which stays."""
        return next(iter(self._of.values()))[0]

    def pop(self) -> T:
        """The next one; the client's others are then behind those of all other clients."""
        client = next(iter(self._of))
        own = self._of.pop(client)
        one = own.popleft()
        if own:
            self._of[client] = own
        return one

    def remove(self, client: str, one: T) -> None:
        """Take one out of the queue."""
        self._of[client].remove(one)
        if not self._of[client]:
            del self._of[client]

    def count(self, client: str) -> int:
        """How many a client has in the queue."""
        return len(self._of.get(client, ()))

    def __iter__(self) -> Iterator[T]:
        """All, client by client."""
        return (one for own in self._of.values() for one in own)

    def __len__(self) -> int:
        """How many there are."""
        return sum(map(len, self._of.values()))


class Share:
    """Counts places, of which one client may have half; for one thread."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._taken: Counter[str] = Counter()

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """Have a place until the end.

        Raises:
            Busy: all are taken, or this client has half of them.
        """
        if self._taken.total() >= self._most or 2 * self._taken[client] >= max(2, self._most):
            raise Busy(f"too many {self._what}, from this client or from all; retry later")
        self._taken[client] += 1
        try:
            yield
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]


class Rotation:
    """Places of which a freed one goes to the client that has waited longest since its last, and limits on how many wait."""

    def __init__(self, places: int, *, most_waiting: float = inf, most_per_client: float = inf) -> None:
        self._free = places
        self._most_waiting = most_waiting
        self._most_per_client = most_per_client
        self._waiting: FairQueue[Event] = FairQueue()
        self._lock = Lock()

    @contextmanager
    def place(self, client: str, left: Callable[[], float]) -> Iterator[None]:
        """Wait for a place, and have it until the end.

        Args:
            left: seconds until it is to be asked again; raises if waiting is over.

        Raises:
            Busy: too many wait already, or too many of this client.
        """
        turn = self._queue(client)
        try:
            while not turn.wait(left()):
                pass
        except BaseException:
            self._leave(client, turn)
            raise
        try:
            yield
        finally:
            self._pass_on()

    def _queue(self, client: str) -> Event:
        turn = Event()
        with self._lock:
            if self._free:
                self._free -= 1
                turn.set()
                return turn
            if len(self._waiting) >= self._most_waiting or self._waiting.count(client) >= self._most_per_client:
                raise Busy("too many images wait to be decoded; retry later")
            self._waiting.append(client, turn)
        return turn

    def _leave(self, client: str, turn: Event) -> None:
        with self._lock:
            if not turn.is_set():
                self._waiting.remove(client, turn)
                return
        self._pass_on()  # it came at the last moment

    def _pass_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.pop().set()
            else:
                self._free += 1
