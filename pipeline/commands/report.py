"""`edgedistill report`: draws report.html again from existing results."""

import argparse
from pathlib import Path

from pipeline.commands.run import reused
from pipeline.config import load
from pipeline.outputs import publish
from pipeline.terminal.answer import Answer


def report(args: argparse.Namespace) -> Answer:
    """Draw report.html again."""
    result = reused(load(Path(args.config), args.settings), Path(args.runs))
    folder = Path(args.runs) / result.config.name
    publish(result, folder, redraw=True)
    path = folder / "report.html"
    return Answer({"report": str(path)}, str(path))
