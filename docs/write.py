"""Writes what the documents say of plugins from the plugins' files, and the JSON schema of pipeline.yaml.

python docs/write.py            docs/configuration.md, docs/method.md, README.md, docs/pipeline.schema.json
python docs/write.py --check    changes nothing; prints each file that is not as this script would write it, and ends with 1

A generated part begins with a comment that names it and ends with <!-- end -->. What is written by hand around it stays. A plugin
without such a part gets one, with a heading, after the last one of its kind.
"""

import argparse
import ast
import json
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from deploy import plugins
from pipeline.commands.config import schema
from pipeline.config import PLUGIN_SECTIONS
from pipeline.config.pipeline import PluginSection

ROOT = Path(__file__).parents[1]
KINDS = dict(zip(("dataset", "detector", "loss", "runtime"), PLUGIN_SECTIONS.values(), strict=True))
LEVELS = {"dataset": "###", "detector": "##", "loss": "###", "runtime": "###"}
"""How deep the headings of each kind are in configuration.md."""
HEAD = "| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
END = "<!-- end -->"


class Row(NamedTuple):
    """A line of a table of options, as Markdown."""

    key: str
    kind: str
    default: str
    meaning: str


def main() -> int:
    """Write every file, or name those that are stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; end with 1 if a file is stale")
    check = parser.parse_args().check
    stale = []
    for path, content in written(ROOT).items():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            stale.append(path)
            if not check:
                path.write_text(content, encoding="utf-8")
    for path in stale:
        name = path.relative_to(ROOT).as_posix()
        sys.stdout.write(f"{name} is not what the code says; run: make docs\n" if check else f"wrote {name}\n")
    return 1 if check and stale else 0


def written(root: Path) -> dict[Path, str]:
    """The files with generated parts, and what they should contain."""
    page, readme, method = root / "docs" / "configuration.md", root / "README.md", root / "docs" / "method.md"
    return {
        method: replaced(method.read_text(encoding="utf-8"), "losses", losses()),
        page: with_parts(page.read_text(encoding="utf-8"), parts()),
        readme: replaced(readme.read_text(encoding="utf-8"), "detectors", detectors()),
        root / "docs" / "pipeline.schema.json": json.dumps(schema(), indent=2) + "\n",
    }


def parts() -> dict[tuple[str, str], str]:
    """The generated parts of configuration.md, by kind and name: one per plugin, and one per module of options that plugins share."""
    found = {}
    for word, place in KINDS.items():
        common = shared_rows(word)
        for name in plugins.names(place.package):
            found[word, name] = plugin_part(word, name, common)
        for module, rows in common.items():
            file = plugins.folder(place.package).joinpath(*module.split(".")).with_suffix(".py")
            found[f"{word} options", module.removesuffix(".options")] = f"{about(file)}\n\n{table(rows.values())}"
    return found


def plugin_part(word: str, name: str, common: Mapping[str, Mapping[str, Row]]) -> str:
    """What a plugin's file says it is, a table of its own options, and where the others are described."""
    place = KINDS[word]
    modules = plugins.shared(place.package, name, place.function)
    rows = plugin_rows(place, name)
    own = [row for row in rows if row != common.get(modules.get(row.key, ""), {}).get(row.key)]
    lines = [about(plugins.source(place.package, name))]
    if own:
        lines.append(table(own))
    for module in common:
        keys = [f"`{row.key}`" for row in rows if row not in own and modules[row.key] == module]
        if keys:
            title = f"{word} options: {module.removesuffix('.options')}"
            lines.append(f"{'Also' if lines[1:] else 'Its options are'} {', '.join(keys)}: [{title}](#{anchor(title)}).")
    return "\n\n".join(lines if rows else [*lines, "It has no options."])


def shared_rows(word: str) -> dict[str, dict[str, Row]]:
    """For each module of shared options, a row per option; the default is the one that most plugins have."""
    place = KINDS[word]
    found: dict[str, dict[str, list[Row]]] = {}
    for name in plugins.names(place.package):
        rows = {row.key: row for row in plugin_rows(place, name)}
        for option, module in plugins.shared(place.package, name, place.function).items():
            found.setdefault(module, {}).setdefault(option, []).append(rows[option])
    return {module: {key: statistics.mode(rows) for key, rows in options.items()} for module, options in sorted(found.items())}


def with_parts(page: str, wanted: Mapping[tuple[str, str], str]) -> str:
    """The page with every part as wanted; parts that it lacks are added.

    Raises:
        SystemExit: the page has a part about something that does not exist.
    """
    for word, name in re.findall(r"^<!-- ([a-z ]+): (\w+) -->$", page, re.MULTILINE):
        if (word, name) not in wanted:
            raise SystemExit(f"docs/configuration.md describes {word} {name}, which does not exist; delete its section")
    for (word, name), body in wanted.items():
        if f"<!-- {word}: {name} -->" not in page:
            page = with_section(page, word, name)
        page = replaced(page, f"{word}: {name}", body)
    return page


def with_section(page: str, word: str, name: str) -> str:
    """The page with an empty part under a new heading, before the next heading as high after the last part of this kind."""
    kind = word.removesuffix(" options")
    last = max((found.end() for found in re.finditer(rf"^<!-- {kind}(?: options)?: \w+ -->$", page, re.MULTILINE)), default=len(page))
    following = re.compile(rf"^#{{1,{len(LEVELS[kind])}}} ", re.MULTILINE).search(page, last)
    at = following.start() if following else len(page)
    section = f"{LEVELS[kind]} {word}: {name}\n\n<!-- {word}: {name} -->\n{END}\n\n"
    return (page[:at].rstrip() + "\n\n" + section + page[at:]).rstrip() + "\n"


def replaced(page: str, title: str, body: str) -> str:
    """The page with this between the part's two comments.

    Raises:
        SystemExit: the page has no such part.
    """
    first, begin, rest = page.partition(f"<!-- {title} -->\n")
    _, end, last = rest.partition(END)
    if not end:
        raise SystemExit(f"a page has no part from <!-- {title} --> to {END}; add both lines")
    return f"{first}{begin}\n{body.strip()}\n\n{end}{last}"


def detectors() -> str:
    """README's table: every detector and what its file says it is."""
    package = KINDS["detector"].package
    link = "docs/configuration.md#"
    rows = [
        f"| [`{name}`]({link}{anchor(f'detector: {name}')}) | {about(plugins.source(package, name))[:-1]} |\n"
        for name in plugins.names(package)
    ]
    return "| `name` | what it is |\n| --- | --- |\n" + "".join(rows)


def losses() -> str:
    """The method page's table: every loss, its paper, what it reads, whom it serves and its constants, from its file's docstring."""
    rows = [_loss(plugins.source(KINDS["loss"].package, name)) for name in plugins.names(KINDS["loss"].package)]
    return "| loss | paper | reads | serves | constants |\n| --- | --- | --- | --- | --- |\n" + "".join(rows)


def _loss(file: Path) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    paragraphs = [" ".join(part.split()) for part in docstring.split("\n\n")]
    cited = next((found for part in paragraphs if (found := re.search(r"^(.*?), (https://[^\s;,)]*[^\s;,).])", part))), None)
    paper = f"[{cited[1]}]({cited[2]})" if cited else ""
    reads = plugins.constant(KINDS["loss"].package, file.stem, "READS")
    serves = next((found[1] for part in paragraphs if (found := re.search(r"(?:^|[.;] )For ([^.]*)\.", part))), "")
    if not serves and set(reads) <= {"pyramid", "targets"}:
        serves = "all detectors"
    constants = next((part.removeprefix("Constants: ") for part in paragraphs if part.startswith("Constants: ")), "")
    link = f"[`{file.stem}`](../stages/losses/{file.name})"
    return f"| {link} | {paper} | {', '.join(reads)} | {serves} | {constants.replace('|', chr(92) + '|')} |\n"


def about(file: Path) -> str:
    """The first line of a module's docstring."""
    return file.read_text(encoding="utf-8").partition("\n")[0].strip('" ')


def anchor(title: str) -> str:
    """The address of a heading on its page."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def table(rows: Iterable[Row]) -> str:
    """A table of options."""
    return HEAD + "".join(f"| `{row.key}` | {row.kind} | {row.default} | {row.meaning} |\n" for row in rows).rstrip()


def plugin_rows(place: PluginSection, name: str) -> list[Row]:
    """A row per option of a plugin."""
    return rows_of(plugins.schema(place.package, name, place.function))


def rows_of(model: type[BaseModel]) -> list[Row]:
    """A row per field of a model."""
    return list(_rows(model.model_json_schema().get("properties", {})))


def _rows(properties: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    for name, one in properties.items():
        yield Row(name, kind_of(one), default_of(one), str(one.get("description", "")).replace("|", r"\|"))


def kind_of(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(kind_of(one) for one in schema[union]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"{len(schema['prefixItems'])} numbers" if "prefixItems" in schema else f"list of {kind_of(schema['items'])}"
    if "patternProperties" in schema:
        return f"mapping of text to {kind_of(next(iter(schema['patternProperties'].values())))}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"mapping of text to {kind_of(schema['additionalProperties'])}"
    names = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null", None: "section"}
    least, above, most, below, step = (
        schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")
    )
    low = f"above {above:g}" if above is not None else f"{least:g}" if least is not None else ""
    high = f"below {below:.12g}" if below is not None else f"{most:.12g}" if most is not None else ""
    extent = f"{low} to {high}" if low and high else low if above is not None else f"{low} or more" if low else ""
    return ", ".join(part for part in (names[schema.get("type")], extent, f"a multiple of {step}" if step else "") if part)


def default_of(schema: Mapping[str, Any]) -> str:
    """The value of a key that is not given."""
    if "default" not in schema:
        return "required"
    value = schema["default"]
    if value and isinstance(value, dict):
        return "its defaults"
    return f"`{value}`" if isinstance(value, str) and value else f"`{yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}`"


if __name__ == "__main__":
    sys.exit(main())
