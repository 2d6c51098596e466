"""Messages between the supervisor and one worker: JSON, each with a connection or without."""

import array
import json
import socket
from collections import deque
from typing import Any

from deploy.errors import ConfigError

AGAIN_SECONDS = 0.02
"""Until a message that the other end had no room for is tried again."""
_LONGEST = 1 << 18

Message = dict[str, Any]


def pair() -> "tuple[Channel, Channel]":
    """The two ends of a channel.

    Raises:
        ConfigError: this system has no such sockets.
    """
    try:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except (AttributeError, OSError) as error:
        raise ConfigError("serve.workers above 1 needs Linux; set it to 1, and serve.sessions higher instead") from error
    return Channel(one), Channel(other)


class Channel:
    """One end. Messages that the other end has no room for wait in order; a connection is refused instead."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._waiting: deque[bytes] = deque()

    def fileno(self) -> int:
        """For event loops."""
        return self._socket.fileno()

    def send(self, message: Message) -> bool:
        """Send a message; False if it waits, until `flush`."""
        self._waiting.append(json.dumps(message).encode())
        return self.flush()

    def flush(self) -> bool:
        """Send what waits; False if there is still no room."""
        while self._waiting:
            try:
                self._socket.send(self._waiting[0])
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:  # the other end has closed, which its reader notices
                self._waiting.clear()
                return True
            self._waiting.popleft()
        return True

    def hand_over(self, connection: socket.socket) -> bool:
        """Send a connection, which remains to be closed here; False if the other end has no room or has ended."""
        if not self.flush():
            return False
        sent = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection.fileno()]))]
        try:
            self._socket.sendmsg([b'{"do": "answer"}'], sent)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[Message, socket.socket | None] | None:
        """The next message, with a connection if it has one; None if there is none yet.

        Raises:
            EOFError: the other end has closed.
        """
        try:
            content, files, _, _ = socket.recv_fds(self._socket, _LONGEST, 1)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise EOFError from error
        if not content:
            raise EOFError
        return json.loads(content), socket.socket(fileno=files[0]) if files else None

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
