"""docs/evidence.md: tables and plots of what benchmarks/evidence/run.py has measured."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader

from pipeline.report.ablation_page import gain_chart
from pipeline.results.ablation import TOGETHER, UNDISTILLED, Ablation, interval, render
from pipeline.results.gains import Gain, paired_gain
from pipeline.results.summary import gap_closed

TWICE = "undistilled, twice the steps"

HEAD = """# Evidence

Does distillation help? Each study trains a teacher, and the same student alone, with each loss alone and with both, at several
seeds: same initialization, images and order at each seed. Beside them stands the student alone, trained for twice the steps.
Studies of three seeds ask one thing, whether both losses help other detectors too: they have the student alone and with both.
Settings were chosen on split val; the figures are of split test, which was read once, after each training. A gain is the mean of
the differences at the same seed, with the 95 % interval of Student's t over the seeds. `benchmarks/evidence/run.py` measures, resumes,
and writes this page from the rows in `benchmarks/evidence/`. All of it was trained on a CPU, two cores without AVX-512."""

STYLE = (
    "text{font:13px sans-serif;fill:#555}.grid line{stroke:#ddd}.axis{stroke:#555}.line{fill:none;stroke-width:2;stroke:#c4510a}"
    ".line.zero{stroke:#555}.mark{fill:#c4510a;stroke:#fff;stroke-width:2}.mark.seed{fill:#555}"
)


def write_page(docs: Path, studies: Path, found: Mapping[str, Ablation]) -> None:
    """evidence.md in `docs`, with a plot a study; `studies` holds their pipeline files and, where there are any, notes of that name."""
    environment = Environment(loader=PackageLoader("pipeline.report", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string('{% from "chart.html.j2" import chart %}{{ chart(c) }}')
    parts = [HEAD]
    for name, one in found.items():
        picture = docs / f"evidence-{name}.svg"
        drawn = template.render(c=gain_chart(one)).strip().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        opened = drawn.index(">") + 1
        picture.write_text(f"{drawn[:opened]}<style>{STYLE}</style>{drawn[opened:]}\n", encoding="utf-8")
        first = (studies / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        says = " ".join(line.removeprefix("# ") for line in first if line.startswith("# ") and "yaml-language-server" not in line)
        notes = studies / f"{name}.md"
        parts += [
            f"## {name}",
            says,
            f"![Gains by seed]({picture.name})",
            f"```text\n{render(one)}\n```",
            *said_over_twice(one),
            *said_over_parts(one),
            by_seed(one),
        ]
        parts += [notes.read_text(encoding="utf-8").strip()] if notes.exists() else []
    (docs / "evidence.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def over(found: Ablation, role: str) -> Gain | None:
    """What all losses gain over another student than the one alone; None where the study has no such."""
    return paired_gain(found.maps[TOGETHER], found.maps[role]) if role in found.maps else None


def said_over_twice(found: Ablation) -> list[str]:
    """What all losses gain over the student alone that was trained for twice the steps, if there is one."""
    gain = over(found, TWICE)
    if gain is None:
        return []
    closed = gap_closed(found.teacher, *(sum(found.maps[role]) / len(found.seeds) for role in (TWICE, TOGETHER)))
    share = "" if closed is None else f", {closed:.0%} of the lead that the teacher has there"
    return [f"Over the student alone at twice the steps, all losses gain {points(gain)}{share}."]


def said_over_parts(found: Ablation) -> list[str]:
    """What all losses gain over each loss alone, if that was trained."""
    parts = {role: over(found, role) for role in found.maps if role not in (UNDISTILLED, TOGETHER, TWICE)}
    said = [f"over {role} alone {points(gain)}" for role, gain in parts.items() if gain is not None]
    return [f"All losses gain {', '.join(said)}."] if said else []


def points(gain: Gain) -> str:
    """A gain with its interval."""
    return f"{gain.mean * 100:+.1f} points (95 % interval {interval(gain)})"


def by_seed(found: Ablation) -> str:
    """Every training's mAP, a row a seed."""
    rule = ["---"] * (1 + len(found.maps))
    values = [[str(seed), *(f"{of[i]:.4f}" for of in found.maps.values())] for i, seed in enumerate(found.seeds)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [["seed", *found.maps], rule, *values])
