"""Writes docs/evidence.md and its plots from the rows that benchmarks/evidence/run.py has measured."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.report import environment
from pipeline.report.ablation_page import gain_chart
from pipeline.results.ablation import BASELINE, HEADER, MASK_HEADER, TOGETHER, Ablation, counts, interval, table_rows
from pipeline.results.gains import Gain, paired_gain
from pipeline.results.summary import gap_closed
from pipeline.results.table import UNDEFINED

TWICE = "baseline, twice the steps"

SECTIONS = Path(__file__).parent / "sections"
"""Parts of the page that studies with scripts of their own have written."""

OPENING = "unlabeled.md"
"""The one that comes before all others, if it is there."""

HEAD = """# Evidence

Does distillation help? Each study trains a teacher and, at several seeds, the same student: without the teacher (the baseline), with
each loss, and with both ("all losses"). At a given seed, every student starts from the same weights and sees the same images in the
same order. A second baseline is trained for twice the steps. That costs more than the distilled training, which took 1.1 to 1.6 times
as long as the baseline's; the first gain in each table is the one over it. Studies with three seeds only ask whether both losses
together help other detectors too: they train the baseline and the student with both.

Settings were chosen on split val. All results are from split test, which was evaluated once per training, after it had ended. A gain
is the mean of the differences from a baseline at the same seed, in points (0.01 mAP), with the 95% interval of Student's t over
the seeds. "Gap closed" is the share of the teacher's lead over the baseline at equal steps that the gain at equal steps makes up.
The networks under Results were trained on a CPU with two cores and no AVX-512. `benchmarks/evidence/run.py` trains, resumes, and
writes this page from the rows in `benchmarks/evidence/`."""

STYLE = (
    "text{font:13px sans-serif;fill:#555}.grid line{stroke:#ddd}.axis{stroke:#555}.line{fill:none;stroke-width:2;stroke:#c4510a}"
    ".line.zero{stroke:#555}.mark{fill:#c4510a;stroke:#fff;stroke-width:2}.mark.seed{fill:#555}"
)


def write_page(docs: Path, studies: Path, found: Mapping[str, Ablation]) -> None:
    """Write evidence.md and one plot per study to `docs`; `studies` holds the pipeline files and optional notes (<study>.md)."""
    template = environment().from_string('{% from "chart.html.j2" import chart %}{{ chart(c) }}')
    own = [(file.name, file.read_text(encoding="utf-8").strip()) for file in sorted(SECTIONS.glob("*.md"))]
    parts = [HEAD, *(text for name, text in own if name == OPENING)]
    parts += ["## Results", *(result(name, one, about(studies / f"{name}.yaml")) for name, one in found.items())]
    for name, one in found.items():
        picture = docs / f"evidence-{name}.svg"
        drawn = template.render(c=gain_chart(one)).strip().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        opened = drawn.index(">") + 1
        picture.write_text(f"{drawn[:opened]}<style>{STYLE}</style>{drawn[opened:]}\n", encoding="utf-8")
        notes = studies / f"{name}.md"
        parts += [
            f"## {name}",
            f"![Gains by seed]({picture.name})",
            *compared_with_longer_training(one),
            *compared_with_each_loss(one),
            by_seed(one),
        ]
        parts += [notes.read_text(encoding="utf-8").strip()] if notes.exists() else []
    parts += [text for name, text in own if name != OPENING]
    (docs / "evidence.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def about(study: Path) -> str:
    """The description of a study: the comment at the start of its pipeline file."""
    lines = study.read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("# ") and "yaml-language-server" not in line)


def result(name: str, found: Ablation, description: str) -> str:
    """A study's description and its table of results."""
    first, reached, *others = HEADER
    rows = [[role, reach, *over_twice(found, role), *rest] for role, reach, *rest in table_rows(found)]
    header = [first, reached, "gain over twice the steps, points", "95% interval", "gain at equal steps, points", *others[1:]]
    masks = "" if found.masks is None else f"\n\nMasks:\n\n{table(MASK_HEADER, table_rows(found.masks))}"
    return f"**[{name}](#{name})**: {description} {counts(found)}.\n\n{table(header, rows)}{masks}"


def over_twice(found: Ablation, role: str) -> tuple[str, str]:
    """A student's gain over the baseline at twice the steps with its interval, in points; dashes for other networks and studies."""
    if TWICE not in found.maps or role in (BASELINE, TWICE) or role not in found.maps:
        return UNDEFINED, UNDEFINED
    gain = paired_gain(found.maps[role], found.maps[TWICE])
    return f"{gain.mean * 100:+.2f}", interval(gain)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def over(found: Ablation, role: str) -> Gain | None:
    """The gain of all losses over a different role; None if the study does not have that role."""
    return paired_gain(found.maps[TOGETHER], found.maps[role]) if role in found.maps else None


def compared_with_longer_training(found: Ablation) -> list[str]:
    """A sentence on the gain over the baseline at twice the steps; empty if the study does not have one."""
    gain = over(found, TWICE)
    if gain is None:
        return []
    closed = gap_closed(found.teacher, *(sum(found.maps[role]) / len(found.seeds) for role in (TWICE, TOGETHER)))
    share = "" if closed is None else f", {closed:.0%} of the teacher's lead over it"
    return [f"Over the baseline at twice the steps, all losses gain {words(gain)}{share}."]


def compared_with_each_loss(found: Ablation) -> list[str]:
    """A sentence on the gain of all losses over each single loss; empty if the study does not train them."""
    parts = {role: over(found, role) for role in found.maps if role not in (BASELINE, TOGETHER, TWICE)}
    gains = [f"{words(gain)} compared with {role} only" for role, gain in parts.items() if gain is not None]
    return [f"All losses gain {' and '.join(gains)}."] if gains else []


def in_points(gain: Gain) -> str:
    """A gain in points, with its interval, for a table."""
    ends = "" if gain.low is None or gain.high is None else f" ({gain.low * 100:+.2f} to {gain.high * 100:+.2f})"
    return f"{gain.mean * 100:+.2f}{ends}"


def words(gain: Gain) -> str:
    """A gain with its interval, for a sentence."""
    return f"{gain.mean * 100:+.1f} points (95% interval {interval(gain)})"


def by_seed(found: Ablation) -> str:
    """The mAP of every training, one row per seed."""
    values = [[str(seed), *(f"{of[i]:.4f}" for of in found.maps.values())] for i, seed in enumerate(found.seeds)]
    return table(["seed", *found.maps], values)
