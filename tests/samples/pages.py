"""The documents as the tests read them."""

import re
from pathlib import Path

from places import ROOT

README, ARCHITECTURE = ROOT / "README.md", ROOT / "docs" / "ARCHITECTURE.md"
EXTENDING = ROOT / "docs" / "extending.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text(page: Path) -> str:
    """All of a page."""
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _BLOCK.sub("", text(page))


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code in a language."""
    return [body for kind, body in _BLOCK.findall(text(page)) if kind == language]


def sections(page: Path) -> dict[str, str]:
    """The text between each heading and the next; a line that starts with # in a block of code is not a heading."""
    found: dict[str, list[str]] = {}
    title, fenced = "", False
    for line in text(page).splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if not fenced and re.match(r"#+ ", line):
            title = line.lstrip("#").strip()
            assert title not in found, f"{page.name} has two headings {title}"
        found.setdefault(title, []).append(line)
    return {heading: "".join(lines) for heading, lines in found.items()}


def rows(body: str) -> list[list[str]]:
    """The cells of the tables in a text, without their heads."""
    lines = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| ")]
    return [cells for index, cells in enumerate(lines) if cells[0] != "---" and lines[index + 1 : index + 2][0:1] != [["---"] * len(cells)]]
