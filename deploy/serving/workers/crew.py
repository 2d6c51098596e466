"""The workers as the supervisor sees them: it forks them, talks to them, hands them connections, and notices when one has ended."""

import asyncio
import os
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import NoReturn

from deploy.errors import ArtifactError
from deploy.serving.workers.channel import AGAIN_SECONDS, Channel, Message, pair
from deploy.serving.workers.sums import Counted


@dataclass(eq=False)
class CrewMember:
    """One worker: how many connections it has, whether it serves a bundle, what it had counted when it was asked last."""

    number: int
    pid: int
    channel: Channel
    connections: int = 0
    serves: bool = False
    figures: Counted = field(default_factory=Counted)
    asked: dict[int, "asyncio.Future[Message]"] = field(default_factory=dict)


class Crew:
    """All workers that live.

    Args:
        work: what a worker does, given its number and its end of the channel; returns its exit code.
        heed: called with a worker and what it says unasked.
        left: called with a worker that has ended, and its exit code or the negative number of the signal that ended it.
    """

    def __init__(
        self, work: Callable[[int, Channel], int], heed: Callable[[CrewMember, Message], None], left: Callable[[CrewMember, int], None]
    ) -> None:
        self.living: list[CrewMember] = []
        self._work, self._heed, self._left = work, heed, left
        self._numbers = count()
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def fork(self, number: int) -> CrewMember:
        """Start a worker."""
        ours, theirs = pair()
        inherited = [*(worker.channel for worker in self.living), ours]
        if (pid := os.fork()) == 0:
            self._become(number, theirs, inherited)
        theirs.close()
        worker = CrewMember(number, pid, ours)
        self.living.append(worker)
        self._loop.add_reader(ours.fileno(), self._hear, worker)
        return worker

    def _become(self, number: int, channel: Channel, inherited: list[Channel]) -> NoReturn:
        """In the forked process, which never returns to the loop: that is the supervisor's."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            asyncio._set_running_loop(None)  # noqa: SLF001 - of the other process
            for one in inherited:
                one.close()
            code = self._work(number, channel)
        except BaseException as error:  # noqa: BLE001 - nothing may get out of here
            traceback.print_exception(error)
        finally:
            os._exit(code)

    def hand_over(self, connection: socket.socket) -> None:
        """Give a connection to the worker that has fewest, of those that serve if there are any; the caller closes its own."""
        for worker in sorted(self.living, key=lambda one: (not one.serves, one.connections)):
            if worker.channel.hand_over(connection):
                worker.connections += 1
                return

    def tell(self, worker: CrewMember, message: Message) -> None:
        """Say something to a worker, sooner or later."""
        if not worker.channel.send(message):
            self._loop.call_later(AGAIN_SECONDS, self._tell_again, worker)

    def tell_all(self, message: Message) -> None:
        """Say something to all workers."""
        for worker in self.living:
            self.tell(worker, message)

    async def ask(self, worker: CrewMember, message: Message) -> Message:
        """A worker's answer.

        Raises:
            ArtifactError: it ended instead.
        """
        if worker not in self.living:
            raise ArtifactError(f"worker {worker.number} has ended")
        number = next(self._numbers)
        worker.asked[number] = self._loop.create_future()
        self.tell(worker, {**message, "id": number})
        return await worker.asked[number]

    def reap(self) -> None:
        """Notice who has ended."""
        for worker in list(self.living):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._hear(worker)  # its last words
                self._loop.remove_reader(worker.channel.fileno())
                worker.channel.close()
                self.living.remove(worker)
                code = os.waitstatus_to_exitcode(status)
                for future in worker.asked.values():
                    if not future.done():
                        future.set_exception(ArtifactError(f"worker {worker.number} ended with {code}"))
                self._left(worker, code)

    def kill(self) -> None:
        """End all that are left, and wait for them."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        for worker in self.living:
            self._loop.remove_reader(worker.channel.fileno())
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
            worker.channel.close()
        self.living.clear()

    def _tell_again(self, worker: CrewMember) -> None:
        if worker in self.living and not worker.channel.flush():
            self._loop.call_later(AGAIN_SECONDS, self._tell_again, worker)

    def _hear(self, worker: CrewMember) -> None:
        try:
            while (heard := worker.channel.receive()) is not None:
                self._understand(worker, heard[0])
        except EOFError:
            self._loop.remove_reader(worker.channel.fileno())  # it is ending

    def _understand(self, worker: CrewMember, message: Message) -> None:
        if "closed" in message:
            worker.connections -= message["closed"]
        elif "answer" in message:
            future = worker.asked.pop(message["answer"]["id"], None)
            if future is not None and not future.done():
                future.set_result(message["answer"])
        else:
            self._heed(worker, message)
