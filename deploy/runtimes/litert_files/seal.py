"""The seal of a TFLite file: its own sha256 in its description. Nothing damaged or foreign reaches LiteRT, which may crash on it."""

import hashlib
import re

_WORDS = "edgedistill sha256:"
BLANK = f"{_WORDS}{'0' * 64}"
"""The description of a file that is not sealed yet."""
_SEAL = re.compile(re.escape(_WORDS.encode()) + rb"([0-9a-f]{64})")


def sealed(content: bytes) -> bytes:
    """A file whose description is BLANK, with its digest there."""
    assert content.count(BLANK.encode()) == 1
    digest = hashlib.sha256(content).hexdigest()
    return content.replace(BLANK.encode(), f"{_WORDS}{digest}".encode())


def why_broken(content: bytes) -> str | None:
    """Why a file is not one that was sealed; None if it is."""
    found = _SEAL.findall(content)
    if len(found) != 1:
        return "it was not built by edgedistill"
    if hashlib.sha256(content.replace(found[0], b"0" * 64)).hexdigest() != found[0].decode():
        return "its content is not what was built"
    return None
