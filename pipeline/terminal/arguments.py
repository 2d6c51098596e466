"""How arguments are read: argparse, with errors in one line."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from deploy.errors import ConfigError
from pipeline.terminal.answer import say


class CommandParser(argparse.ArgumentParser):
    """Refuses what argparse lets pass: a word too many, and an empty value, as an unset variable of a shell gives."""

    def error(self, message: str) -> NoReturn:
        """Raise it, with where the help is."""
        raise ConfigError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse here what is left over: the parser of a command knows its name and its options."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            from deploy.plugins import suggest

            self.error(f"unrecognized arguments: {' '.join(left)}{suggest(left[0].split('=')[0], self._option_string_actions)}")
        if (empty := next(self._empty(found), None)) is not None:
            self.error(f"{empty} is empty; give it a value")
        return found, left

    def _empty(self, found: argparse.Namespace) -> Iterator[str]:
        for action in self._actions:
            given = getattr(found, action.dest, None)
            if given == "" or (isinstance(given, list) and "" in given):
                yield next(iter(action.option_strings), None) or str(action.metavar)


class Version(argparse.Action):
    """Looks up the version only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> None:
        """Print it."""
        from deploy.machine.packages import DISTRIBUTION, version

        say(f"{DISTRIBUTION} {version(DISTRIBUTION)}", sys.stdout)
        parser.exit()
