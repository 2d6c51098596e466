"""Whether locks in a folder keep other processes, and other machines, out: processes that share trainings rely on it."""

import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from deploy.errors import ArtifactError

MOUNTS = Path("/proc/self/mountinfo")
_NFS = ("nolock", "local_lock=all", "local_lock=flock")
_LOCAL: dict[str, tuple[str, ...]] = {"nfs": _NFS, "nfs4": _NFS, "lustre": ("localflock", "noflock"), "gfs2": ("localflocks",)}
"""Options of mounts with which locks hold on one machine only, by the kind of file system."""

_NEVER = ("fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "fuse.mount-s3", "fuse.rclone", "fuse.sshfs", "fuse.blobfuse2")
"""Object stores and the like, on which a lock is seen on one machine only."""

_TRY = """\
import sys
from filelock import FileLock, Timeout
try:
    FileLock(sys.argv[1], fallback_to_soft=False).acquire(timeout=0)
except Timeout:
    sys.exit(3)
"""
_ELSEWHERE = "use a file system with working locks (a local disk, NFS 4, Lustre mounted with flock), or one process without --share"


def refuse_without_locks(folder: Path) -> None:
    """Lock a file in the folder and let a second process try to; look up how the folder is mounted.

    Raises:
        ArtifactError: the second process got the lock as well, there are no locks, or they hold on one machine only.
    """
    if (why := _mounted_without(folder, MOUNTS)) is not None:
        raise ArtifactError(f"{folder}: {why}; {_ELSEWHERE}")
    probe = folder / ".exclusion.lock"
    try:
        with FileLock(probe, fallback_to_soft=False):
            tried = subprocess.run([sys.executable, "-c", _TRY, str(probe)], capture_output=True, check=False)  # noqa: S603 - our own words
    except (OSError, NotImplementedError) as error:
        raise ArtifactError(f"{folder}: files cannot be locked there ({error}); {_ELSEWHERE}") from error
    if tried.returncode != 3:
        raise ArtifactError(f"{folder}: a lock there does not keep other processes out; {_ELSEWHERE}")


def _mounted_without(folder: Path, mounts: Path) -> str | None:
    """Why locks there hold on one machine only, by the mount that the folder is in; None if they do not, or nobody knows."""
    try:
        rows = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # a system without it
        return None
    where = folder.resolve()
    best, kind, options = Path(), "", ""
    for row in rows:
        before, _, after = row.partition(" - ")
        fields, last = before.split(), after.split()
        point = Path(fields[4].replace("\\040", " ")) if len(fields) > 5 else None
        if point is not None and len(last) > 2 and where.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind, options = point, last[0], f"{fields[5]},{last[2]}"
    if kind in _NEVER:
        return f"a folder of {kind} has no locks that other machines see"
    local = [option for option in options.split(",") if option in _LOCAL.get(kind, ())]
    return f"{kind} is mounted with {local[0]}, so locks hold on one machine only" if local else None
