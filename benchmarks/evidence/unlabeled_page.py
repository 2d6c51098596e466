"""What the study of images without labels has found: its verdict, and its part of docs/evidence.md."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from page import OPENING, SECTIONS, about, in_points, table
from run import STUDIES
from unlabeled_units import (
    ALWAYS,
    ARMS,
    BASELINE,
    BETTER,
    CEILING,
    FIRST,
    LABELED,
    SEEDS,
    TEACHER,
    carried,
    leading,
    roles,
    rows,
    study_file,
    teacher_seed,
)

from pipeline.results.gains import paired_gain
from pipeline.results.table import grid, number

COLUMNS = ["network", "val", "test", f"points over the {BASELINE}"]


def maps(study: str, split: str) -> dict[str, list[float]]:
    """mAP seed by seed of the roles that have been trained at all seeds."""
    found = {(row["role"], row["seed"]): row[split]["map"] for row in rows(study)}
    shared = (TEACHER, *BETTER)
    wanted = {
        role: [(role, teacher_seed(study, seed) if role in shared else seed) for seed in range(SEEDS[study])] for role in roles(study)
    }
    return {role: [found[one] for one in places] for role, places in wanted.items() if all(one in found for one in places)}


def chosen(on_val: Mapping[str, Sequence[float]]) -> str:
    """Of the arms that have been trained at all seeds, the one with the highest mean on val."""
    return max((arm for arm in ARMS if arm in on_val), key=lambda arm: fmean(on_val[arm]))


def verdict(study: str, on_test: Mapping[str, Sequence[float]], arm: str) -> tuple[dict[str, bool], str]:
    """What the arm reaches, and a line on it."""
    over = {other: paired_gain(on_test[arm], on_test[other]) for other in (BASELINE, LABELED, TEACHER)}
    lead = fmean(on_test[CEILING]) - fmean(on_test[BASELINE])
    share = over[BASELINE].mean / lead if lead > 0 else 0.0
    low = over[BASELINE].low
    reached = {
        "gain": over[BASELINE].mean >= 0.02 and low is not None and low > 0 and over[LABELED].mean >= 0.015,
        "beats its teacher": over[TEACHER].mean > 0,
        "half of the way": share >= 0.5,
    }
    gains = ", ".join(f"{in_points(gain)} over {other}" for other, gain in over.items())
    return reached, f"{study}: {arm}, chosen on val: {gains}; {share:.0%} of the way to the ceiling"


def results(study: str) -> tuple[list[list[str]], str] | None:
    """A line per role that has been trained at all seeds, and one on the arm that val chose; None until the verdict can be reached."""
    on_val, on_test = maps(study, "val"), maps(study, "test")
    if leading(study) is None or any(role not in on_val for role in (*FIRST, CEILING, *carried(study))):
        return None
    lines = [
        [role, number(fmean(on_val[role])), number(fmean(values)), in_points(paired_gain(values, on_test[BASELINE]))]
        for role, values in on_test.items()
    ]
    return lines, verdict(study, on_test, chosen(on_val))[1]


def show() -> None:
    """The rows of the first seed on val, and for roles with all seeds, means and gains; the verdict once all that it needs is measured."""
    for study in SEEDS:
        print(f"\n{study}: {len(rows(study))} trainings are measured\n{grid(['at the first seed', 'val'], tried(study))}")
        if (found := results(study)) is not None:
            print(f"\n{grid(COLUMNS, found[0])}\n{'' if is_whole(study) else 'so far, '}{found[1]}")
    if all(is_whole(study) for study in SEEDS):
        print(f"\n{goal()}")


def is_whole(study: str) -> bool:
    """Whether every role that is trained at all seeds has been."""
    on_val = maps(study, "val")
    return results(study) is not None and all(role in on_val for role in ALWAYS)


def tried(study: str) -> list[list[str]]:
    """What each role reaches on val at the first seed."""
    first = {row["role"]: row["val"]["map"] for row in rows(study) if row["seed"] == 0}
    return [[role, number(first[role])] for role in roles(study) if role in first]


def goal() -> str:
    """Whether the goal is reached, once all is measured."""
    reached = [verdict(study, maps(study, "test"), chosen(maps(study, "val")))[0] for study in SEEDS]
    counts = {name: sum(one[name] for one in reached) for name in reached[0]}
    good = counts["gain"] == len(SEEDS) and counts["beats its teacher"] >= 2 and counts["half of the way"] >= 1
    return f"{'the goal is reached' if good else 'the goal is not reached'}: {counts}"


def section_of_page(notes: str) -> str:
    """The part of docs/evidence.md in Markdown: what was found, in words, then each study; what was tried once is folded up."""
    parts = ["## Images without labels", notes.strip()]
    for study in SEEDS:
        if (found := results(study)) is not None:
            parts += [f"**{study}**: {about(study_file(study))}", table(COLUMNS, found[0]), f"{found[1]}."]
            once = table(["network", "val"], tried(study))
            parts.append(f"<details>\n<summary>{study}: all networks at the first seed</summary>\n\n{once}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def write() -> None:
    """Write the part of the page."""
    SECTIONS.mkdir(exist_ok=True)
    (SECTIONS / OPENING).write_text(section_of_page((STUDIES / "unlabeled.md").read_text(encoding="utf-8")), encoding="utf-8")
