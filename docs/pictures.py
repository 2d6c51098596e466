"""Draws the pictures of the README and of ARCHITECTURE.md.

python docs/pictures.py                               docs/architecture.svg, from the layers in pyproject.toml
python docs/pictures.py runs/digits/report.html       docs/report.svg too: mAP against latency, as the report of that run draws it
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
REGISTRIES = ("datasets", "detectors", "losses", "runtimes")
WIDTH = 1000
ROOMS_TOP = 432
MOST_ABREAST = 4
COLUMNS = {
    "pipeline": (20, 270, "command line, configuration, store, report"),
    "stages": (310, 380, "training to package, one file per stage"),
    "deploy": (710, 270, "what runs on the box; never torch"),
}
FLOW = {  # stage: column and row, artifact, stages that it is fed by
    "prepare": (0, 0, "Dataset", ()),
    "collect": (1, 3, "ImagePool", ("prepare",)),
    "label": (2, 3, "PseudoLabels", ("train_teacher", "collect")),
    "train_teacher": (1, 0, "Checkpoint", ("prepare",)),
    "time_steps": (1, 1, "StepTimes", ("prepare",)),
    "train_baseline": (2, 1, "Checkpoint", ("time_steps",)),
    "distill": (2, 0, "Checkpoint", ("train_teacher",)),
    "finetune_int8": (3, 2, "Checkpoint", ("distill",)),
    "compare": (3, 1, "Gains", ("train_baseline", "distill")),
    "export": (3, 0, "OnnxModel", ("distill", "finetune_int8")),
    "optimize": (4, 0, "Engine", ("export",)),
    "validate": (5, 0, "Report", ("optimize",)),
    "measure": (5, 1, "Measurement", ("optimize",)),
    "stress": (5, 2, "Stress", ("optimize",)),
    "assess": (6, 1, "Robustness", ("stress", "validate")),
    "parity": (6, 2, "Parity", ("validate",)),
    "gate": (6, 0, "Verdicts", ("validate", "measure")),
    "package": (7, 0, "Package", ("gate",)),
}
STYLE = """\
:root { --paper: #fcfbf8; --ink: #1b1d21; --soft: #5b6068; --rule: #c9c5bb; --box: #ffffff; --stage: #fbe9dc; --registry: #dfeaf7; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171b; --ink: #ebe9e4; --soft: #a3a7af; --rule: #454952; --box: #1e2126; --stage: #4a2f1c; --registry: #1f3550; }
}
.paper { fill: var(--paper); }
text { font: 13px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "Liberation Sans", sans-serif; fill: var(--ink); }
.title { font-weight: 650; font-size: 16px; } .soft { fill: var(--soft); font-size: 12px; } .middle { text-anchor: middle; }
rect.box { fill: var(--box); stroke: var(--rule); } rect.stage { fill: var(--stage); } rect.registry { fill: var(--registry); }
.arrow { stroke: var(--soft); stroke-width: 1.5; fill: none; marker-end: url(#head); } marker path { fill: var(--soft); }
"""
HEAD = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
HEAD += '<path d="M0,0L8,4L0,8z"/></marker>'


def architecture() -> str:
    """The flow of artifacts above, the rooms of the three packages below."""
    top, rooms = list(_flow(66)), list(_rooms(ROOMS_TOP))
    height = ROOMS_TOP + 46 + 10 * 40 + 40
    legend = [*_box(20, height - 34, 16, 16, "stage"), *_text(44, height - 21, "a stage", "soft")]
    legend += [
        *_box(110, height - 34, 16, 16, "registry"),
        *_text(134, height - 21, "a registry: one file per plugin, shared parts in its folders", "soft"),
    ]
    legend += _text(500, height - 21, "Upper rooms import lower ones; rooms side by side do not import one another.", "soft")
    label = (
        "The eighteen stages with their artifacts; the rooms of pipeline, stages and deploy, which import one another from left to right"
    )
    return "\n".join([*_open(height, label, STYLE), f"<defs>{HEAD}</defs>", *top, *rooms, *legend, "</svg>\n"])


def _open(height: float, label: str, style: str, width: float = WIDTH) -> list[str]:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    paper = f'<rect class="paper" width="{width:g}" height="{height:g}" rx="8"/>'
    return [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">', f"<style>\n{style}</style>", paper]


def _flow(top: float) -> Iterator[str]:
    def corner(name: str) -> tuple[float, float]:
        column, row, *_ = FLOW[name]
        return 20 + column * 122, top + row * 76

    yield from _text(20, top - 34, "What flows", "title")
    yield from _text(126, top - 34, "each stage writes one artifact, a folder named after the hash of its inputs", "soft")
    for name, (_, _, artifact, fed_by) in FLOW.items():
        x, y = corner(name)
        yield from _box(x, y, 106, 48, "stage")
        yield from _text(x + 53, y + 21, name, "middle")
        yield from _text(x + 53, y + 38, artifact, "soft middle")
        for other in fed_by:
            yield _arrow(*corner(other), x, y)
    x, y = corner("train_baseline")
    yield from _text(x + 53, y + 68, "at equal steps and equal cost; the stronger", "soft middle")
    yield from _text(x + 53, y + 84, "one is measured as an engine too", "soft middle")
    x, y = corner("label")
    yield from _text(x + 120, y + 28, "to distill, if there are images without labels", "soft")
    x, y = corner("package")
    yield from _text(x + 53, y + 94, "predict, serve,", "middle")
    yield from _text(x + 53, y + 111, "build", "middle")
    yield f'<path class="arrow" d="M{x + 53},{y + 48}v28"/>'


def _arrow(left: float, upper: float, x: float, y: float) -> str:
    """From the right edge of a box to the left edge of another; from a lower row up, by an elbow."""
    if upper == y:
        return f'<path class="arrow" d="M{left + 106},{upper + 24}L{x - 1},{y + 24}"/>'
    if upper < y:
        return f'<path class="arrow" d="M{left + 114},{upper + 24}V{y + 24}L{x - 1},{y + 24}"/>'
    return f'<path class="arrow" d="M{left + 106},{upper + 12}H{x + 30}V{y + 49}"/>'


def _rooms(top: float) -> Iterator[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = {contract["containers"][0]: contract["layers"] for contract in contracts if contract["name"].startswith("The rooms of")}
    yield from _text(20, top - 22, "Who imports whom", "title")
    for package, (left, width, purpose) in COLUMNS.items():
        yield from _text(left, top + 14, package, "title")
        yield from _text(left, top + 32, purpose, "soft")
        if package != "pipeline":
            yield f'<path class="arrow" d="M{left - 32},{top + 9}H{left - 8}"/>'
        groups = [[room.strip() for room in layer.split("|")] for layer in layers[package]]
        rows = [group[first : first + MOST_ABREAST] for group in groups for first in range(0, len(group), MOST_ABREAST)]
        for row, rooms in enumerate(rows):
            size = (width - 6 * (len(rooms) - 1)) / len(rooms)
            for place, room in enumerate(rooms):
                x, y = left + place * (size + 6), top + 46 + row * 40
                yield from _box(x, y, size, 32, _kind(package, room))
                yield from _text(x + size / 2, y + 21, room, "middle")


def _kind(package: str, room: str) -> str:
    if room in REGISTRIES:
        return "registry"
    return "stage" if package == "stages" and room in {*FLOW, "train", "hold_out", "weigh_steps"} else ""


def _box(x: float, y: float, width: float, height: float, kind: str) -> list[str]:
    return [f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"/>']


def _text(x: float, y: float, words: str, kind: str) -> list[str]:
    return [f'<text class="{kind}" x="{x:g}" y="{y:g}">{words}</text>']


def report(page: str) -> str:
    """The report's first chart as a picture of its own, in the report's colors."""
    found = re.search(r'<svg class="chart broad" viewBox="0 0 (\d+) (\d+)"[^>]*aria-label="([^"]*)">(.*?)</svg>', page, re.DOTALL)
    css = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    if found is None or css is None:
        raise SystemExit("the page has no chart of mAP against latency; give the report.html of a run with a measured target")
    width, height = int(found[1]), int(found[2])
    wanted = (":root", ".chart", ".teacher", ".baseline", ".student", ".mark", ".label")
    rules = [
        rule
        for rule in re.findall(r"@media[^{]*dark[^{]*\{\s*:root \{.*?\}\s*\}|[^{}]+\{[^{}]*\}", css[1], re.DOTALL)
        if any(word in rule for word in wanted)
    ]
    style = "".join(f"{rule.strip()}\n" for rule in rules) + ".paper { fill: var(--paper); }\n"
    head = _open(height + 36, found[3], style, width + 40)
    return "\n".join([*head, f'<g class="chart" transform="translate(20 22)">{found[4].strip()}</g>', "</svg>\n"])


if __name__ == "__main__":
    (ROOT / "docs" / "architecture.svg").write_text(architecture(), encoding="utf-8")
    for given in sys.argv[1:2]:
        (ROOT / "docs" / "report.svg").write_text(report(Path(given).read_text(encoding="utf-8")), encoding="utf-8")
