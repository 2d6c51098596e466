"""The HTML pages."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment(filters: Mapping[str, Callable[..., Any]] | None = None) -> Environment:
    """The templates of the pages: values are escaped, and one that is missing is an error."""
    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(filters or {})
    return made
