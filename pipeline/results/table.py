"""summary.json as text for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.comparison import limits
from deploy.engines.choice import left_out
from deploy.errors import plain
from pipeline.results import pseudo_labels, robustness
from pipeline.results.gain_lines import figures_lines, gain_of, legend, unfinished_baseline, warnings
from pipeline.results.learning import rising_lines
from stages.notes import reminder

UNDEFINED = "-"
LATENCY_LEGEND = "x teacher: times as fast as the teacher, 95% interval; all engines were measured alternately"
CHOICE_LEGEND = "x chosen: times as long as the chosen engine takes, 95% interval; drop: mAP lost against the float graph"


def render(summary: Mapping[str, Any]) -> str:
    """The networks, the targets, the choices, robustness and the gates, one table each; then a line on the data if it was changed."""
    line = reminder(summary["data"]["notes"])
    networks = "\n".join([*_networks(summary), *(f"! {line}" for line in rising_lines(summary))])
    choices = [choice_table(name, target["choice"]) for name, target in summary["targets"].items() if target["choice"] is not None]
    pseudo = _pseudo(summary["data"].get("unlabelled"))
    robust = [] if summary["robustness"] is None else [robustness_table(summary["robustness"])]
    tables = [networks, *pseudo, _targets(summary["targets"], summary["measurement"]), *choices, *robust, *_gates(summary["gates"])]
    return "\n\n".join([*tables, *([line] if line else [])])


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be, numbers aligned right."""
    columns = [_column([plain(cell) for cell in column]) for column in zip(header, *rows, strict=True)]
    first, *others = ["  ".join(cells) for cells in zip(*columns, strict=True)]
    return "\n".join([first.rstrip(), "-" * len(first), *(line.rstrip() for line in others)])


def _column(cells: Sequence[str]) -> list[str]:
    width = max(map(len, cells))
    numbers = all(cell[:1].isdigit() or cell == UNDEFINED for cell in cells[1:])
    return [cell.rjust(width) if numbers else cell.ljust(width) for cell in cells]


def verdict_table(gates: Sequence[Mapping[str, Any]]) -> str:
    """The gates with their measurements and limits; below, the reasons why gates judged nothing."""
    rows = [
        [one["name"], one["target"], one["metric"], judged(one["measured"], one["limit"]), one["limit"], one["verdict"]] for one in gates
    ]
    notes = [plain(f"! {gate['target']}, gate {gate['name']}: {gate['why']}") for gate in gates if gate["why"]]
    return "\n".join([grid(["gate", "target", "metric", "measured", "limit", "verdict"], rows), *notes])


def choice_table(target: str, choice: Mapping[str, Any]) -> str:
    """The candidates of a target whose runtime or precision was chosen; below, why some were not admitted."""
    rows = []
    for one in choice["offers"]:
        ratio = between(one["ratio"]) if one["ratio"] is not None else UNDEFINED
        rows.append([one["pair"], number(one["map"]), number(_rounded(one["drop"])), number(one["p50_ms"], 2), ratio, one["verdict"]])
    reasons = [*((one["pair"], one["why"]) for one in choice["offers"]), *choice["left_out"].items()]
    notes = [f"! {line}" for line in left_out(reasons)]
    notes += [f"! latency of the candidates: {choice['warning']}"] if choice["warning"] else []
    within = "" if choice["limit"] is None else f" of those within {choice['limit']:g} of the float graph's mAP"
    head = f"{target}: {choice['pair']} was chosen, the fastest{within}"
    return "\n".join([head, grid(["candidate", "map", "drop", "p50 ms", "x chosen", "verdict"], rows), *notes, CHOICE_LEGEND])


def _rounded(value: float | None, digits: int = 4) -> float | None:
    """Without the sign of a number that is zero once it is rounded."""
    return None if value is None else round(value, digits) + 0.0


def number(value: float | None, digits: int = 4) -> str:
    """With four digits after the point; "-" where undefined."""
    if value is None:
        return UNDEFINED
    return str(int(value)) if float(value).is_integer() and abs(value) >= 1000 else f"{value:.{digits}f}"


def judged(value: float | None, limit: str) -> str:
    """The number that a gate judged, with enough digits to tell it from the gate's limit."""
    return UNDEFINED if value is None else limits.told_apart(value, number(value), limits.bounds(limit))


def _shown(figures: Iterable[Mapping[str, Any]], *names: str) -> list[str]:
    """The names of the accuracy columns, with mask_map if any row has a value for it."""
    return [*names, "mask_map"] if any(one.get("mask_map") is not None for one in figures) else list(names)


def trained_networks(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures of each trained network by what tables call it; a baseline that serves as both has one row."""
    titles = {"teacher": "teacher", "baseline": "baseline", "baseline_equal_cost": "baseline, equal cost", "student": "student"}
    found = {title: summary[name] for name, title in titles.items() if summary[name] is not None}
    if "baseline" in found and found["baseline"] == found.get("baseline, equal cost"):
        del found["baseline, equal cost"]
    return found


def _networks(summary: Mapping[str, Any]) -> list[str]:
    networks = trained_networks(summary)
    rows, shown = [], _shown(networks.values(), "map", "map_50", "map_75")
    for name, figures in networks.items():
        size = [str(figures["epochs"]), _millions(figures["parameters"]), _millions(figures["macs"])]
        rows.append([name, *(number(figures[metric]) for metric in shown), *size])
    table = grid(["network", *shown, "epochs", "parameters", "MACs"], rows)
    gain = gain_of(summary)
    notes = [f"! {clause}" for clause in (*warnings(gain), unfinished_baseline(gain)) if clause is not None]
    return ["\n".join([table, *figures_lines(summary), *legend(gain), *notes])]


def _pseudo(found: Mapping[str, Any] | None) -> list[str]:
    """What the teacher found in images without labels, class by class, if the student learned from it."""
    if found is None or found["labels"] is None:
        return []
    rows = pseudo_labels.pseudo_rows(found["labels"], number, UNDEFINED)
    table = [grid(pseudo_labels.HEADER, rows)] if rows else []
    return ["\n".join([*table, *map(plain, pseudo_labels.about(found))])]


def _targets(targets: Mapping[str, Any], measurement: Mapping[str, Any] | None) -> str:
    rows, notes, shown = [], [], _shown(targets.values(), "map", "map_50")
    for name, figures in targets.items():
        total = (figures["latency_ms"] or {}).get("end_to_end", {})
        speed = [number(total.get(percentile), 2) for percentile in ("p50", "p99")]
        size = UNDEFINED if figures["bytes"] is None else f"{figures['bytes'] / 1e6:.2f} MB"
        faster = between(figures["speedups"]["teacher"]) if "teacher" in figures["speedups"] else UNDEFINED
        accuracy = [number(figures[metric]) for metric in shown]
        rows.append([name, figures["runtime"], figures["precision"], *accuracy, faster, *speed, size])
        if figures["why"]:
            notes.append(f"! {name} was not measured: {figures['why']}")
        if figures.get("int8"):
            notes.append(f"{name}: {figures['int8']['words']}")
    if measurement is not None:
        notes.append(LATENCY_LEGEND)
        notes += [f"! latency: {measurement['warning']}"] if measurement["warning"] else []
    header = ["target", "runtime", "precision", *shown, "x teacher", "p50 ms", "p99 ms", "size"]
    return "\n".join([grid(header, rows), *notes])


def robustness_table(found: Mapping[str, Any]) -> str:
    """Each engine's accuracy on other splits, in its worst group and on corrupted images; below, the student's leads."""
    metrics = robustness.columns(found)
    names = robustness.ordered(found["engines"])
    rows = [[robustness.TITLES.get(name, name), *(number(found["engines"][name]["values"].get(one)) for one in metrics)] for name in names]
    if not rows:
        return "! robustness was not measured: no engine runs on this machine"
    notes = map(plain, (*robustness.lead_lines(found), *robustness.about(found)))
    return "\n".join([grid(["robustness", *metrics], rows), *notes])


def _gates(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    return [verdict_table(gates)] if gates else []


def between(interval: Mapping[str, float]) -> str:
    """An interval of ratios: "6.1 to 6.4", or "6.2" if both ends are rounded to the same number."""
    digits = 2 if interval["ratio"] < 2 else 1 if interval["ratio"] < 20 else 0
    low, high = (f"{interval[end]:.{digits}f}" for end in ("low", "high"))
    return low if low == high else f"{low} to {high}"


def _millions(value: int) -> str:
    return f"{value / 1e6:.2f} M"
