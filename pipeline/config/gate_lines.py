"""The line of each gate in pipeline.yaml, for annotations."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from deploy.machine import files
from pipeline.config.document import EXTENDS


def gate_lines(path: Path) -> list[tuple[Path, int]]:
    """File and line (from 1) of each gate in order, in the file that has the list: `path`, or a file that it extends.

    The line of a gate that is an alias is the alias's, not its anchor's.
    """
    base: str | None = None
    keys = _Events(yaml.parse(files.read_text(path), yaml.SafeLoader))
    for key in keys.mapping():
        if key == "gates":
            return [(path, line + 1) for line in keys.sequence()]
        event = keys.skip()
        if key == EXTENDS and isinstance(event, yaml.ScalarEvent):
            base = event.value
    return gate_lines(path.parent / base) if base is not None else []


class _Events:
    """A walk over the events of one document whose top level is a mapping."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events

    def mapping(self) -> Iterator[str]:
        """The keys; after each key the caller must consume its value."""
        for event in self._events:
            if isinstance(event, yaml.MappingStartEvent):
                break
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                return
            yield event.value if isinstance(event, yaml.ScalarEvent) else ""

    def sequence(self) -> Iterator[int]:
        """The lines (from 0) of the items, if a sequence comes next; otherwise nothing."""
        if not isinstance(next(self._events), yaml.SequenceStartEvent):
            return
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                return
            assert event.start_mark is not None
            yield event.start_mark.line
            self._rest(event)

    def skip(self) -> yaml.Event:
        """Consume a complete value and return its first event."""
        event = next(self._events)
        self._rest(event)
        return event

    def _rest(self, event: yaml.Event) -> None:
        depth = 1 if isinstance(event, yaml.CollectionStartEvent) else 0
        while depth:
            inner = next(self._events)
            depth += isinstance(inner, yaml.CollectionStartEvent) - isinstance(inner, yaml.CollectionEndEvent)
