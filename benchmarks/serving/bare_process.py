"""An engine without a server, for workers.py: answers requests in HTTP's form on plain sockets, one after another, and checks nothing.

Usage: python bare_process.py BUNDLE PORT
"""

import json
import re
import selectors
import socket
import sys
from pathlib import Path

from bare_engine import BareEngine

_LENGTH = re.compile(rb"content-length: (\d+)")


def body(connection: socket.socket) -> bytes | None:
    """The body of the next request; None if the client has closed."""
    content = b""
    while b"\r\n\r\n" not in content:
        piece = connection.recv(1 << 20)
        if not piece:
            return None
        content += piece
    head, _, rest = content.partition(b"\r\n\r\n")
    found = _LENGTH.search(head.lower())
    length = int(found[1]) if found else 0
    while len(rest) < length:
        rest += connection.recv(1 << 20)
    return rest


def serve(folder: Path, port: int) -> None:
    """Answer until killed."""
    engine = BareEngine(folder)
    with socket.create_server(("127.0.0.1", port)) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                    continue
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                content = body(connection)
                if content is None:
                    selector.unregister(connection)
                    connection.close()
                    continue
                answer = json.dumps(engine(content)).encode() if content else b"{}"
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
