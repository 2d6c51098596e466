"""`edgedistill init`: looks at a folder of labeled images and at this machine, and writes a pipeline.yaml that works."""

import argparse
import errno
import math
import shlex
from pathlib import Path
from typing import Any

from deploy.errors import ConfigError, plain
from pipeline.init.document import Given, name_of, write
from pipeline.init.folder import LabeledFolder, look
from pipeline.init.plan import VAL_SHARE, FirstPlan, Wish, plan
from pipeline.init.sample import Decoding, decoding
from pipeline.terminal.answer import Answer

MOST_MINUTES = 100_000


def init(args: argparse.Namespace) -> Answer:
    """Write the file, and with --preview a page of labeled samples; neither replaces anything."""
    out = Path(args.out)
    _refuse_existing(out)
    page = out.with_suffix(".preview.html") if args.preview else None
    _refuse_existing(page)
    wish = Wish(minutes=args.minutes, latency=args.latency, device=args.device)
    _check(wish, args.max_doubtful)
    root = Path(args.data).expanduser()
    folder = look(root)
    decoded = decoding(folder, None if "val" in folder.sources else VAL_SHARE, args.max_doubtful)
    chosen = plan(folder, wish)
    _create(out, write(folder, chosen, decoded, Given(name_of(root.resolve().name), args.latency, args.max_doubtful)))
    if page is not None:
        from pipeline.init.preview import preview

        _create(page, preview(folder, chosen, decoded, root))
    return Answer(_figures(folder, chosen, decoded, out, page), "\n".join(_lines(folder, chosen, decoded, out, page)))


def _check(wish: Wish, max_doubtful: float) -> None:
    if not 0 <= max_doubtful <= 1:
        raise ConfigError(f"--max-doubtful {max_doubtful:g}: allowed: 0 to 1")
    if not 0 < wish.minutes <= MOST_MINUTES or math.isnan(wish.minutes):
        raise ConfigError(f"--minutes {wish.minutes:g}: allowed: above 0 to {MOST_MINUTES}")
    if wish.latency is not None and not 0 < wish.latency < math.inf:
        raise ConfigError(f"--latency {wish.latency:g}: allowed: above 0")


def _refuse_existing(path: Path | None) -> None:
    if path is None:
        return
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists, and init replaces nothing; pass --out with a new file name")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder; pass --out with a file in an existing folder")


def _create(path: Path, text: str) -> None:
    """Write a file that does not exist yet.

    Raises:
        ConfigError: it has appeared in the meantime.
        PermissionError: the folder exists, but no file can be created in it.
    """
    try:
        with path.open("x", encoding="utf-8", errors="backslashreplace") as file:  # names of files may be in a different encoding
            file.write(text)
    except FileExistsError:
        _refuse_existing(path)
        raise
    except FileNotFoundError as error:  # what /proc answers
        raise PermissionError(errno.EPERM, "no file can be created in this folder", str(path)) from error


def _figures(folder: LabeledFolder, chosen: FirstPlan, decoded: Decoding, out: Path, page: Path | None) -> dict[str, Any]:
    return {
        "config": str(out),
        "preview": None if page is None else str(page),
        "dataset": folder.dataset,
        "images": dict(folder.num_images),
        "classes": dict(folder.classes),
        "width": chosen.size.width,
        "height": chosen.size.height,
        "decoding": dict(decoded.fields),
        "share_below_8_px": chosen.size.small,
        "epochs": chosen.epochs,
        "minutes": {name: seconds / 60 for name, seconds in chosen.seconds.items()},
        "notes": [note.model_dump(mode="json") for note in decoded.notes],
    }


def _lines(folder: LabeledFolder, chosen: FirstPlan, decoded: Decoding, out: Path, page: Path | None) -> list[str]:
    counted = ", ".join(f"{count} {split}" for split, count in folder.num_images.items())
    parts = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in chosen.seconds.items())
    slow = [] if chosen.warning is None else [f"! {chosen.warning}"]
    lines = [
        f"{folder.dataset}: {counted} images; {len(folder.objects)} training objects, classes: {_names(folder)}",
        *map(str, decoded.notes),
        *decoded.reasons,
        f"input {chosen.size.width} x {chosen.size.height} px: {chosen.size.small:.1%} of the objects are below 8 px",
        f"about {chosen.minutes:.0f} minutes: {parts}",
        *slow,
        f"wrote {out}; next: edgedistill run {shlex.quote(str(out))}",
        *([] if page is None else [f"wrote {page}"]),
    ]
    return [plain(line) for line in lines]


def _names(folder: LabeledFolder, most: int = 12) -> str:
    shown = [f"{name} {count}" for name, count in folder.classes.items()]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
