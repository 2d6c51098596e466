"""A private copy of a bundle: what was checked is what is opened, whatever others write into the bundle's folder meanwhile."""

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.bundles.manifest import MANIFEST, read_manifest
from deploy.bundles.provenance import PROVENANCE
from deploy.bundles.signature import SIGNATURE, read, verify
from deploy.bundles.trust import Signer, Trust
from deploy.errors import ArtifactError, EdgedistillError, Untrusted
from deploy.machine import files

_kept: "weakref.WeakSet[Snapshot]" = weakref.WeakSet()


class Snapshot:
    """A folder that only this user can read, with a bundle's files; it is removed by `remove`, or with the last reference to it."""

    def __init__(self, given: Path) -> None:
        """Create an empty folder of the same name as `given`, since signatures contain that."""
        self.given = given
        try:
            parent = Path(tempfile.mkdtemp(prefix="edgedistill-"))
            self.folder = parent / (given.resolve().name or "bundle")
            self.folder.mkdir()
        except OSError as error:
            raise ArtifactError(f"{given}: no place for a private copy ({error.strerror}); set TMPDIR to a folder with room") from error
        self._removed = weakref.finalize(self, shutil.rmtree, parent, ignore_errors=True)
        _kept.add(self)

    def remove(self) -> None:
        """Delete the folder; may be called twice."""
        self._removed()

    @contextmanager
    def named_as_given(self) -> Iterator[None]:
        """Errors name the folder that was copied in place of the copy."""
        try:
            yield
        except EdgedistillError as error:
            raise type(error)(str(error).replace(str(self.folder), str(self.given))) from error

    def add(self, names: Iterable[str]) -> None:
        """Copy files.

        Raises:
            ArtifactError: one cannot be read, or there is no room.
        """
        for name in names:
            self._check_room(name)
            try:
                files.copy(self.given / name, self.folder / name)
            except OSError as error:
                raise ArtifactError(f"{self.given / name}: {error.strerror}") from error

    def _check_room(self, name: str) -> None:
        try:
            size, free = (self.given / name).stat().st_size, shutil.disk_usage(self.folder).free
        except OSError as error:
            raise ArtifactError(f"{self.given / name}: {error.strerror}") from error
        if size > free:
            raise ArtifactError(
                f"{self.given / name}: a private copy needs {size:,} bytes, {free:,} are free; set TMPDIR to a folder with room"
            )


def remove_all() -> None:
    """Delete every copy, before a process ends in a way in which Python deletes nothing."""
    for one in list(_kept):
        one.remove()


def take(given: Path, trust: Trust) -> Snapshot:
    """Copy a bundle's files and check that they are trusted.

    Raises:
        Untrusted: they are not.
        ArtifactError: a file cannot be read or copied.
    """
    made = Snapshot(given)
    try:
        with made.named_as_given():
            if trust.signers:
                _add_signed(made, trust.signers)
            else:
                made.add([MANIFEST])
            _check_manifest(made, trust.sha256)
            if not trust.signers:
                made.add(sorted(read_manifest(made.folder)[0].files))
                made.add(name for name in (PROVENANCE, SIGNATURE) if (given / name).is_file())
    except BaseException:
        made.remove()
        raise
    return made


def _add_signed(made: Snapshot, signers: tuple[Signer, ...]) -> None:
    """Copy what the signature covers, and verify the copies: other files are not used, so that they may be there."""
    content, signed = read(made.given / SIGNATURE)
    signature = made.folder.parent / SIGNATURE
    signature.write_bytes(content)
    for name, expected in signed.items():
        made.add([name])
        if files.sha256(made.folder / name) != expected:
            raise Untrusted(f"{made.given / name}: is not the file that was signed; copy the bundle again, or sign it again")
    verify(made.folder, signature, signers)
    signature.rename(made.folder / SIGNATURE)


def _check_manifest(made: Snapshot, expected: str | None) -> None:
    if not (path := made.folder / MANIFEST).is_file():
        raise Untrusted(f"{made.given / SIGNATURE}: does not cover {MANIFEST}; sign the bundle again")
    if expected is not None and (found := files.sha256(path)) != expected:
        raise Untrusted(f"{made.given / MANIFEST}: its sha256 is {found}, --sha256 allows {expected}")
