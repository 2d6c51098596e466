"""The errors that a user can mend, each with the exit code it ends the program with.

EdgedistillError
  ConfigError      2   pipeline.yaml, --set or the command line
  DataError        3   images and annotations
  ArtifactError    4   checkpoints, bundles, engines
  BuildError       5   export and compilation
    RuntimeUnavailable   a runtime or its device is not here
  Interrupted    130   by Ctrl-C, in a command that does not go on where it was

A message is one line: what was given, what is allowed, what to do.
"""


class EdgedistillError(Exception):
    """Base of all errors shown without a traceback."""

    exit_code = 1


class ConfigError(EdgedistillError):
    """A wrong key, value or command line."""

    exit_code = 2


class DataError(EdgedistillError):
    """Images or annotations that cannot be used."""

    exit_code = 3


class ArtifactError(EdgedistillError):
    """A checkpoint, engine or bundle that is missing, damaged or foreign."""

    exit_code = 4


class BuildError(EdgedistillError):
    """A graph that cannot be exported or compiled."""

    exit_code = 5


class RuntimeUnavailable(BuildError):
    """A runtime that is not installed, or whose device is not in this machine."""


class Interrupted(EdgedistillError):
    """Ctrl-C in a command that starts over when it is given again."""

    exit_code = 130


_LONGEST = 200


def in_one_line(error: BaseException) -> str:
    """An exception's whole message in one line of at most 200 characters; its kind if it has no message.

    For errors whose first line does not say enough, such as those of model hubs.
    """
    return " ".join(str(error).split())[:_LONGEST] or type(error).__name__


def first_line(error: BaseException) -> str:
    """What an exception says, in one line: its first that is not empty, else its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
