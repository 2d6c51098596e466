"""Errors that a user can fix, each with the program's exit code.

EdgedistillError
  ConfigError      2   pipeline.yaml, --set or the command line
  DataError        3   images and annotations
  ArtifactError    4   checkpoints, bundles, engines
    Diverged             a training whose losses are not finite
    Untrusted            a bundle that is not signed by whom the command line trusts
  BuildError       5   export and compilation
    RuntimeUnavailable   a runtime or its device is not available on this machine
  Interrupted    130   Ctrl-C in a command that cannot resume

Gates end the program with codes of their own, since a failed gate is a verdict and not an error: EXIT_FAIL 10, EXIT_INCONCLUSIVE 11,
EXIT_INCOMPARABLE 12. What is not in this file is 0, or 1 for an unexpected error.

A message is one line: what was given, what is allowed, what to do.
"""

import re

EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_INCOMPARABLE = 10, 11, 12


class EdgedistillError(Exception):
    """Base of all errors shown without a traceback."""

    exit_code = 1


class ConfigError(EdgedistillError):
    """An invalid key, value or command line."""

    exit_code = 2


class DataError(EdgedistillError):
    """Unusable images or annotations."""

    exit_code = 3


class ArtifactError(EdgedistillError):
    """A checkpoint, engine or bundle that is missing, damaged or incompatible."""

    exit_code = 4


class Diverged(ArtifactError):
    """A training whose losses are not finite: it ends in the same way whenever it is repeated."""


class Untrusted(ArtifactError):
    """A bundle that is not signed by whom the command line trusts, or has a manifest other than the expected one."""


class BuildError(EdgedistillError):
    """A graph that cannot be exported or compiled."""

    exit_code = 5


class RuntimeUnavailable(BuildError):
    """A runtime that is not installed, or whose device this machine does not have."""


class Interrupted(EdgedistillError):
    """Ctrl-C in a command that starts over when it is run again."""

    exit_code = 130


_LONGEST = 200
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""Characters that move a terminal's cursor, color it, end a line, turn its direction, or cannot be seen."""
_COMMAND = re.compile(r"##(?=\w*\[)")
_FIRST_COMMAND = re.compile(r"^(\s*)::")


def plain(text: str) -> str:
    r"""Text that others chose, such as the name of a file, a class or a gate, as one line that does nothing but show itself.

    Control characters become escapes like \n. So that no line is a command to GitHub's, Azure's or TeamCity's runners, `::` at its
    beginning and `##[` anywhere get a backslash.
    """
    seen = _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    return _FIRST_COMMAND.sub(r"\1\:\:", _COMMAND.sub(r"#\#", seen))


def in_cell(text: str) -> str:
    """As `plain`, for a cell of a table in Markdown, in which it is no link, image, code or HTML."""
    return re.sub(r"([|\[\]`])", r"\\\1", plain(" ".join(text.split()))).replace("<", "&lt;")


def in_one_line(error: BaseException) -> str:
    """An exception's whole message in one line of at most 200 characters; its kind if it has no message.

    For errors whose first line does not say enough, such as those of model hubs.
    """
    return " ".join(str(error).split())[:_LONGEST] or type(error).__name__


def first_line(error: BaseException) -> str:
    """An exception's message in one line: its first nonempty line, otherwise its class name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
