"""A process that decodes images from strangers, so that one that takes too long or too much memory can be ended.

It reads requests from its standard input, a socket: the lengths of two parts, then JSON of preprocessing and max_pixels, and the file.
Its answer has the same form: JSON, and the network's input as float32. Nothing is unpickled on either side.
"""

import json
import os
import signal
import socket
import struct
import warnings
from dataclasses import asdict
from typing import Any

from PIL import Image

from deploy.contract import FULL_WHITE, Preprocessing
from deploy.errors import DataError
from deploy.prediction import image_files, preprocess

LENGTHS = struct.Struct(">QQ")
_BYTES_PER_PIXEL, _BYTES_PER_PIXEL_IN_FULL = 24, 50
"""Of the most demanding format, color with alpha, while it is decoded: with 8 bits, and with 16 where the contract has a range for them."""
_COPIES, _BESIDE_BYTES = 4, 64 << 20
"""Copies of the file, and what is read of it; everything else."""


def main() -> None:
    """Answer requests until the other side closes the socket."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to all processes of a service; the server finishes what it accepted
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    warnings.simplefilter("ignore")  # nobody reads them, and Python would keep their texts, which differ from file to file
    Image.init()
    with socket.socket(fileno=0) as connection:
        own = _memory()
        while lengths := _received(connection, LENGTHS.size):
            head_length, length = LENGTHS.unpack(lengths)
            asked = json.loads(_received(connection, head_length))
            preprocessing = Preprocessing.model_validate(asked["preprocessing"])
            _limit_memory(own, asked["max_pixels"], length, preprocessing)
            answer, tensor = _answer(_received(connection, length), preprocessing, asked["max_pixels"])
            text = json.dumps(answer).encode()
            connection.sendall(LENGTHS.pack(len(text), len(tensor)) + text)
            connection.sendall(tensor)


def _answer(content: bytes, preprocessing: Preprocessing, max_pixels: int) -> tuple[dict[str, Any], bytes]:
    try:
        image = image_files.load(content, preprocessing, max_pixels=max_pixels, trusted=False)
        tensor, placement = preprocess.apply(image.pixels, preprocessing, image.size)
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


def _memory() -> int | None:
    """Bytes of address space that this process has now; None if the system does not tell, and time alone is limited."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - not a file of ours
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _limit_memory(own: int | None, pixels: int, file_bytes: int, preprocessing: Preprocessing) -> None:
    """Limit what one image takes in addition to the process's own memory."""
    if own is None:
        return
    import resource  # where /proc exists

    per_pixel = _BYTES_PER_PIXEL if preprocessing.white == FULL_WHITE else _BYTES_PER_PIXEL_IN_FULL
    most = own + pixels * per_pixel + _COPIES * file_bytes + _BESIDE_BYTES
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
