"""Figures formatted for people, and the headline in words. mAP is a fraction; its differences are in points of 0.01."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.comparison import limits
from deploy.comparison.gain import DistillationGain, GainOver
from pipeline.results.gain_lines import gain_of, unfinished_baseline, unjudged, untold
from pipeline.results.learning import Learner, learners, listed
from pipeline.results.table import between

UNDEFINED = "–"
MINUS = "−"
NETWORKS = ("teacher", "baseline", "student")
"""The three networks in the order in which they are shown."""

FORMS = {
    "student": "Student in torch",
    "onnx": "Exported graph",
    "other_int8": "Int8 that was not kept",
    "typed": "Graph in target precision",
    "engine": "Engine",
}
"""The forms that the network takes on its way to an engine, by their names in summary.json."""

_WORST_FIRST = ("fail", "incomparable", "inconclusive", "unmeasured", "pass")


@dataclass(frozen=True)
class Tile:
    """A headline figure."""

    title: str
    figure: str
    detail: str


@dataclass(frozen=True)
class Headline:
    """The verdict (pass, fail or open) in words, the run in a sentence or two, and its figures."""

    tone: str
    verdict: str
    sentences: tuple[str, ...]
    tiles: tuple[Tile, ...]


def fraction(value: float | None) -> str:
    """mAP."""
    return UNDEFINED if value is None else f"{value:.3f}"


def points(value: float | None) -> str:
    """A difference of mAP, signed."""
    return UNDEFINED if value is None else _signed(value * 100, 1)


def change(value: float | None) -> str:
    """A difference of mAP in points, signed, in hundredths of a point."""
    return UNDEFINED if value is None else _signed(value * 100, 2)


def _signed(value: float, digits: int) -> str:
    """With its sign, unless it is rounded to zero."""
    rounded = f"{value:+.{digits}f}"
    return rounded.replace("-", MINUS) if float(rounded) else rounded[1:]


def drifted(value: float | None) -> str:
    """A small distance, with two digits."""
    return UNDEFINED if value is None else f"{_round(value, 2):g}" if value >= 1e-4 else f"{value:.0e}" if value else "0"


def _round(value: float, digits: int) -> float:
    """With this many digits that count."""
    return float(f"{value:.{digits}g}")


def convolutions(proof: Mapping[str, Any]) -> str:
    """The numbers of convolutions and of matrix products that an engine computes, by precision."""
    groups = []
    for kind, before in (("convolutions", ""), ("products", "products: ")):
        counts = [(name, proof.get(f"{kind}_{name}", 0)) for name in ("fp32", "fp16", "int8")]
        if any(number for _, number in counts):
            groups.append(before + ", ".join(f"{number} {name}" for name, number in counts if number))
    return "; ".join(groups) or UNDEFINED


def percent(value: float | None) -> str:
    """A share of a whole."""
    return UNDEFINED if value is None else f"{value * 100:z.0f}%".replace("-", MINUS)


def milliseconds(value: float | None) -> str:
    """A time with about three digits."""
    return UNDEFINED if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def size(value: int | None) -> str:
    """Bytes as kB or MB."""
    if value is None:
        return UNDEFINED
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def count(value: int) -> str:
    """A large number in thousands, millions or billions."""
    rounded = _round(value, 3)
    for unit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rounded >= unit:
            return f"{rounded / unit:g} {sign}"
    return str(value)


def measured(value: float | None, metric: str, limit: str) -> str:
    """The number that a gate judged, with enough digits to tell it from the gate's limit."""
    if value is None:
        return UNDEFINED
    rounded = f"{value:,.0f}" if metric == "bytes" else f"{value:.3f}" if metric.endswith("_ms") else f"{value:.4f}"
    return limits.told_apart(value, rounded, limits.bounds(limit))


def duration(seconds: float | None) -> str:
    """Seconds, minutes, hours."""
    if seconds is None:
        return UNDEFINED
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def begun(clause: str) -> str:
    """With a capital at its beginning, and nothing else changed."""
    return clause[0].upper() + clause[1:]


def worst(gates: Sequence[Mapping[str, Any]], target: str) -> str | None:
    """The verdict on a target, which is its worst gate's; None without gates."""
    found = {gate["verdict"] for gate in gates if gate["target"] == target}
    return next((verdict for verdict in _WORST_FIRST if verdict in found), None)


def fastest(summary: Mapping[str, Any]) -> str | None:
    """The fastest target without a failed gate, otherwise the fastest; None if none was measured."""
    measured = {name: target for name, target in summary["targets"].items() if target["latency_ms"]}
    good = [name for name in measured if worst(summary["gates"], name) != "fail"]
    return min(good or measured, key=lambda name: float(measured[name]["latency_ms"]["end_to_end"]["p50"]), default=None)


def headline(summary: Mapping[str, Any]) -> Headline:
    """What a reader should know first."""
    tone, verdict = _verdict(summary)
    learning = _baseline_unfinished(gain_of(summary)) or unfinished(learners(summary))
    sentences = _accuracy(summary), _untold(summary), learning, _speed(summary)
    return Headline(tone, verdict, tuple(sentence for sentence in sentences if sentence), tuple(_tiles(summary)))


def _verdict(summary: Mapping[str, Any]) -> tuple[str, str]:
    verdicts = [gate["verdict"] for gate in summary["gates"]]
    failed, judged = verdicts.count("fail"), len(verdicts) - verdicts.count("unmeasured")
    code = summary["exit_code"]
    if code == 0:
        passed = f"All {judged} gates passed" if judged > 1 else "The gate passed" if judged else "No gate was judged"
        return ("pass" if judged else "open"), passed
    reasons = {
        5: "A required target could not be measured",
        10: f"{failed} of {judged} gates failed",
        11: "A gate is inconclusive",
        12: "A gate found nothing to compare" if "incomparable" in verdicts else "An engine could not be measured",
    }
    return ("fail" if code in (5, 10) else "open"), reasons.get(code, f"Exit code {code}")


def _accuracy(summary: Mapping[str, Any]) -> str:
    teacher, student = summary["teacher"], summary["student"]
    if not gain_of(summary).ordered():
        return f"{begun('; '.join(unjudged(gain_of(summary))))}."
    (equal, first), *others = gain_of(summary).ordered()
    if student["map"] is None or first.gain is None:
        return f"Accuracy is undefined: split {student['split']} has no objects."
    change = f"{_above(first.gain)} the baseline (the same network trained {_for(equal)} without the teacher)"
    own = f"The distilled student, with {count(student['parameters'])} parameters, reaches mAP {fraction(student['map'])}"
    closed, way = _closed(summary), ""
    if closed is not None and closed > 0:
        way = f", closing {percent(closed)} of the gap to" if closed <= 1 else ", and even above"
        way += f" the teacher ({fraction(teacher['map'])})"
    more = "".join(f", and {_above(over.gain)} the one trained {_for(what)}" for what, over in others if over.gain is not None)
    return f"{own} on {student['num_images']} images of split {student['split']}: {change}{way}{more}."


def _closed(summary: Mapping[str, Any]) -> float | None:
    """The share of the gap to the teacher that the smaller gain closes."""
    closed: float | None = summary["gap_closed_equal_cost" if gain_of(summary).ordered()[0][0] == "cost" else "gap_closed"]
    return closed


def _above(gain: float) -> str:
    return "the same as" if round(abs(gain) * 100, 1) == 0 else f"{abs(gain) * 100:.1f} points {'above' if gain > 0 else 'below'}"


def _for(equal: str) -> str:
    return {"cost": "for as long", "steps": "for as many steps"}.get(equal, "for as many steps, which took as long,")


def _untold(summary: Mapping[str, Any]) -> str | None:
    clause = untold(gain_of(summary))
    return None if clause is None else f"{clause}."


def lead(over: GainOver | None) -> str:
    """The student's lead over a baseline in points, with its interval."""
    if over is None:
        return ""
    ends = "" if over.low is None or over.high is None else f" ({points(over.low)} to {points(over.high)})"
    return f"{points(over.gain)}{ends}"


def _baseline_unfinished(gain: DistillationGain) -> str | None:
    clause = unfinished_baseline(gain)
    return None if clause is None else f"{begun(clause)}."


def unfinished(trained: Sequence[Learner]) -> str | None:
    """Which networks had not finished learning; None if all had, as far as is known."""
    rising = {one: one.rising for one in trained if one.rising is not None}
    every = [f"the {one.name} ({points(gave.gain)} points on {gave.num_images} images)" for one, gave in rising.items()]
    if not every:
        return None
    subject, were = listed(every), "was" if len(every) == 1 else "were"
    said = f"{begun(subject)} {were} still rising in the last fifth of {'its' if len(every) == 1 else 'their'} training."
    if any(one.is_baseline for one in rising):
        return f"{said} A baseline that has not finished learning makes any teacher look good: longer training may close part of the gain."
    return f"{said} Longer training may give more."


def _speed(summary: Mapping[str, Any]) -> str | None:
    name = fastest(summary)
    if name is None:
        return "No engine could be measured on this machine."
    target = summary["targets"][name]
    p50 = milliseconds(target["latency_ms"]["end_to_end"]["p50"])
    time = f"{p50} ms per image from pixels to boxes"
    warning = summary["measurement"]["warning"]
    noise = f" While latency was measured, {warning}." if warning else ""
    speedup = target["speedups"].get("teacher")
    if speedup is None:
        return f"Engine {name} takes {time}, with mAP {fraction(target['map'])}.{noise}"
    return f"Engine {name} is {faster(speedup)}, with mAP {fraction(target['map'])}: {time}.{noise}"


def faster(speedup: Mapping[str, float]) -> str:
    """An engine's speed next to the teacher's; a difference that the interval does not show is not claimed."""
    if speedup["low"] <= 1 <= speedup["high"]:
        return "about as fast as the teacher"
    return f"{between(speedup)} times as fast as the teacher"


def _tiles(summary: Mapping[str, Any]) -> list[Tile]:
    teacher, student = summary["teacher"], summary["student"]
    ratio = teacher["parameters"] / max(student["parameters"], 1)
    parameters = f"{count(student['parameters'])} parameters, the teacher has {count(teacher['parameters'])}"
    size_tile = Tile("Smaller than the teacher" if ratio > 1 else "The teacher's size next to this", f"{ratio:.1f}×", parameters)
    return [*_gain_tiles(summary), size_tile, _speed_tile(summary)]


def _gain_tiles(summary: Mapping[str, Any]) -> list[Tile]:
    """The gain and the share of the gap that it closes; without a baseline, the agreement with the teacher."""
    teacher, student, gain = summary["teacher"], summary["student"], gain_of(summary)
    if not gain.ordered():
        found = gain.agreement
        return [Tile("Agreement with the teacher", fraction(found.map), "mAP on the boxes that it is sure of")] if found else []
    (equal, first), *others = gain.ordered()
    lead = None if teacher["map"] is None or first.map is None else teacher["map"] - first.map
    closed = _closed(summary)
    if lead is None or first.gain is None:
        gap = "mAP is undefined"
    elif closed is None:
        gap = "the teacher is less than a point ahead of the baseline"
    else:
        gap = f"of the teacher's lead of {points(lead).lstrip('+')} points over the baseline"
    change = f"points of mAP at equal {equal}, from {fraction(first.map)} to {fraction(student['map'])}"
    change += "".join(f"; {points(over.gain)} at equal {what}" for what, over in others)
    return [Tile("Gain from distillation", points(first.gain), change), Tile("Gap closed", percent(closed), gap)]


def _speed_tile(summary: Mapping[str, Any]) -> Tile:
    name = fastest(summary)
    if name is None:
        return Tile("Fastest engine", UNDEFINED, "none could be measured on this machine")
    target = summary["targets"][name]
    p50 = milliseconds(target["latency_ms"]["end_to_end"]["p50"])
    about = f"{name}, mAP {fraction(target['map'])}, {size(target['bytes'])}"
    if (speedup := target["speedups"].get("teacher")) is not None:
        title = "Faster than the teacher" if speedup["low"] > 1 else "Speed next to the teacher"
        return Tile(title, f"{between(speedup).replace(' to ', '–')}×", f"{p50} ms; {about}")
    return Tile("Fastest engine", f"{p50} ms", about)
