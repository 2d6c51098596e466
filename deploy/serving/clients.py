"""Who counts as one client, and places that clients get in rotation, so that none waits behind everything that another one sent."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from threading import Event, Lock

from deploy.serving.refusals import Busy


def client_key(host: str) -> str:
    """What counts as one client: an IPv4 address, or the first 64 bits of an IPv6 address, which one subscriber has to itself."""
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else f"{ip_network((int(address) >> 64 << 64, 64)).network_address}/64"
    return str(address)


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

    def __init__(self, places: int, *, most_waiting: int, most_per_client: int) -> None:
        self._free = places
        self._most_waiting = most_waiting
        self._most_per_client = most_per_client
        self._waiting: dict[str, deque[Event]] = {}
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
            own = self._waiting.get(client, ())
            if sum(map(len, self._waiting.values())) >= self._most_waiting or len(own) >= self._most_per_client:
                raise Busy("too many images wait to be decoded; retry later")
            self._waiting.setdefault(client, deque()).append(turn)
        return turn

    def _leave(self, client: str, turn: Event) -> None:
        with self._lock:
            if not turn.is_set():
                self._waiting[client].remove(turn)
                if not self._waiting[client]:
                    del self._waiting[client]
                return
        self._pass_on()  # it came at the last moment

    def _pass_on(self) -> None:
        with self._lock:
            client = next(iter(self._waiting), None)
            if client is None:
                self._free += 1
                return
            turns = self._waiting.pop(client)
            turns.popleft().set()
            if turns:
                self._waiting[client] = turns  # behind the others
