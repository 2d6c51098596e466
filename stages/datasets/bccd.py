"""Blood cells under the microscope: red cells, white cells, platelets (MIT; github.com/Shenggan/BCCD_Dataset).

205 training, 87 validation and 72 test images, all 640 x 480 px. They are searched for in data.root, $EDGEDISTILL_DATA/bccd and
../shared/data/bccd (in COCO's layout or the repository's own), otherwise downloaded once from a fixed commit and checked.
"""

import hashlib
import io
import os
import re
import shutil
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.datasets import Source
from stages.datasets.layouts import coco, folder, voc

COMMIT = "d272fb14cdff6e473fafeeeba32aba5f560e9e43"
URL = f"https://github.com/Shenggan/BCCD_Dataset/archive/{COMMIT}.zip"
SHA256 = "59eb0d826c422ae58c4c46f2dac8de1af80c371950dbf0593d8aeb0c8f74f265"
"""Of the files themselves, see `content`: GitHub does not promise that an archive's bytes stay the same."""
NAMES = ("RBC", "WBC", "Platelets")
_WANTED = re.compile(r"[^/]+/BCCD/((?:JPEGImages/\w+\.jpg)|(?:Annotations/\w+\.xml)|(?:ImageSets/Main/\w+\.txt))")
_MAX_BYTES = 64 << 20


def build(out: Path, *, root: str | None = None) -> dict[str, Source]:
    """Read the splits, downloading the data first if there is no local copy.

    Args:
        root: a local copy; null searches `$EDGEDISTILL_DATA/bccd` and `../shared/data/bccd`.

    Raises:
        DataError: `root` does not contain the data, or it cannot be downloaded.
    """
    found = _find(root) or cached()
    if not found.is_dir():
        fetch(URL, found, SHA256)
    if _is_coco(found):
        return coco.sources(coco.discover(found))
    return voc.sources(voc.discover(found), NAMES)


def identity(*, root: str | None = None) -> dict[str, Any]:
    """Digests of a local folder's contents; for downloaded data the commit, which identifies it as well."""
    found = _find(root)
    if found is None:
        return {"commit": COMMIT}
    if _is_coco(found):
        return coco.identity(coco.discover(found))
    return voc.identity(voc.discover(found))


def cached() -> Path:
    """The folder for downloaded data."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "edgedistill" / f"bccd-{COMMIT[:7]}"


def fetch(url: str, destination: Path, sha256: str) -> None:
    """Download the repository's archive, check its contents and unpack them into `destination`, which appears complete or not at all.

    Raises:
        DataError: it cannot be downloaded, is not a zip archive, or has different contents.
    """
    advice = f"download {URL}, unpack it and set data.root to its folder BCCD"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - the address is a constant, or a test's own
            archive = answer.read(_MAX_BYTES)
        files = _unpack(archive)
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"bccd is not on this machine and cannot be downloaded ({error}); {advice}") from error
    if content(files) != sha256:
        raise DataError(f"bccd: the contents of {url} have sha256 {content(files)}, not {sha256}; {advice}")
    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        for name, data in files.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).write_bytes(data)
        scratch.rename(destination)
    except OSError:
        if not destination.is_dir():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def content(files: dict[str, bytes]) -> str:
    """sha256 of one line per file, sorted: its name and its own sha256."""
    lines = (f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _unpack(archive: bytes) -> dict[str, bytes]:
    """Images, annotations and split lists by their name below BCCD/."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        wanted = [(match[1], info) for info in opened.infolist() if (match := _WANTED.fullmatch(info.filename))]
        if sum(info.file_size for _, info in wanted) > _MAX_BYTES:
            raise ValueError(f"the archive unpacks to more than {_MAX_BYTES >> 20} MiB")
        return {name: opened.read(info) for name, info in wanted}


def _find(root: str | None) -> Path | None:
    """The local folder; None if there is none and none was requested."""
    if root is not None:
        return folder(root, "bccd")
    places = [Path.cwd().parent, Path(__file__).resolve().parents[3]]
    shared = [place / "shared" / "data" for place in places]
    named = os.environ.get("EDGEDISTILL_DATA")
    folders = [*([Path(named).expanduser()] if named else []), *shared]
    return next((place / "bccd" for place in folders if (place / "bccd").is_dir()), None)


def _is_coco(found: Path) -> bool:
    return (found / "annotations" / "instances_train.json").is_file()
