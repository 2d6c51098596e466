"""A process that decodes images from strangers, so that one that takes too long or too much memory can be ended.

It reads requests from its standard input, a socket: the lengths of two parts, then JSON of preprocessing and max_pixels, and the file.
Its answer has the same form: JSON, and the network's input as float32. Nothing is unpickled on either side.
"""

import contextlib
import json
import os
import signal
import socket
import struct
from dataclasses import asdict
from typing import Any

from PIL import Image

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.prediction import image_files, preprocess

LENGTHS = struct.Struct(">QQ")
_BYTES_PER_PIXEL = 40
"""Of the most demanding format, 16-bit color, while it is decoded."""
_BESIDE_BYTES = 512 << 20


def main() -> None:
    """Answer requests until the other side closes the socket."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to all processes of a service; the server finishes what it accepted
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    Image.init()
    with socket.socket(fileno=0) as connection:
        _limit_memory()
        while lengths := _received(connection, LENGTHS.size):
            head, content = (_received(connection, length) for length in LENGTHS.unpack(lengths))
            answer, tensor = _answer(json.loads(head), content)
            text = json.dumps(answer).encode()
            connection.sendall(LENGTHS.pack(len(text), len(tensor)) + text)
            connection.sendall(tensor)


def _answer(asked: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    preprocessing = Preprocessing.model_validate(asked["preprocessing"])
    try:
        image = image_files.load_image(content, preprocessing, max_pixels=asked["max_pixels"], trusted=False)
        tensor, placement = preprocess.apply(image, preprocessing)
    except DataError as error:
        return {"error": str(error)}, b""
    except MemoryError:
        return {"error": "needs too much memory to decode; save it with 8 bits per channel, as JPEG or PNG"}, b""
    return {"placement": asdict(placement)}, tensor.tobytes()


def _received(connection: socket.socket, count: int) -> bytes:
    """So many bytes; none if the other side has closed."""
    content = bytearray(count)
    view, place = memoryview(content), 0
    while place < count:
        taken = connection.recv_into(view[place:])
        if not taken:
            return b""
        place += taken
    return bytes(content)


def _limit_memory() -> None:
    """Limit what this process takes beyond what it has now."""
    try:
        import resource
    except ImportError:  # Windows
        return
    most = int(os.environ.get("EDGEDISTILL_DECODER_PIXELS", "0"))
    with contextlib.suppress(OSError, ValueError):  # where /proc does not exist, time alone is limited
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - not a file of ours
            now = int(file.read().split()[0]) * resource.getpagesize()
        limit = now + most * _BYTES_PER_PIXEL + _BESIDE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
