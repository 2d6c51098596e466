"""The model card, a readable form of a bundle's manifest, and the list of its classes."""

from collections.abc import Sequence

from deploy.bundles.manifest import Manifest, Verdict
from deploy.comparison import limits
from deploy.comparison.gain import DistillationGain, GainOver
from deploy.comparison.learning_curve import still_rising
from deploy.comparison.robustness import RobustnessFigures
from deploy.contract import Accuracy, LastFifth, Latency, Percentiles
from deploy.errors import in_cell, plain

CARD, LABELS = "README.md", "labels.txt"

_NUMBERS = {
    "map": "mAP (IoU 0.50 to 0.95)",
    "map_50": "mAP at IoU 0.50",
    "map_75": "mAP at IoU 0.75",
    "mar_100": "mean recall, 100 detections",
}
_OTHERS = {"teacher": "teacher", "baseline": "baseline", "float": "student's graph in fp32"}
_PARTS = {"pre": "preprocessing", "infer": "network", "post": "postprocessing", "end_to_end": "end to end"}


def label_lines(classes: Sequence[str]) -> str:
    """The classes, one per line."""
    return "".join(f"{plain(name)}\n" for name in classes)


def model_card(manifest: Manifest) -> str:
    """The card in Markdown: summary, usage, measurements, gates, preprocessing and provenance."""
    sections = [
        f"# {manifest.name}",
        manifest.description,
        _summary(manifest),
        _usage(manifest),
        _gain(manifest.gain),
        _measured(manifest),
        _robustness(manifest.robustness),
        _gates(manifest),
        _contract(manifest),
        _origin(manifest),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(manifest: Manifest) -> str:
    size, network = manifest.contract.preprocessing, manifest.graph.network
    engine = manifest.engine or f"none, {manifest.why}"
    return _table(
        ("", ""),
        [
            ("Detector", f"{network.detector}, {network.parameters:,} parameters, {network.macs / 1e9:.3f} GMAC per image"),
            ("Input", f"{size.width} x {size.height} px"),
            ("Classes", f"{len(manifest.contract.classes)}: {', '.join(manifest.contract.classes)}"),
            ("Target", f"{manifest.target} ({manifest.runtime}, {manifest.precision})"),
            ("Engine", engine),
            *([("Choice", str(manifest.choice))] if manifest.choice is not None else []),
            *([("Int8", str(manifest.fallback))] if manifest.fallback is not None else []),
            *([("Int8 training", str(manifest.int8))] if manifest.int8 is not None else []),
            *([("Training", _unfinished(network.last_fifth))] if network.last_fifth and still_rising(network.last_fifth) else []),
            ("License", manifest.license or "not stated"),
        ],
    )


def _unfinished(last_fifth: LastFifth) -> str:
    gain = f"{last_fifth.gain:+.3f} mAP ({last_fifth.low:+.3f} to {last_fifth.high:+.3f})"
    return f"mAP was still rising when it ended: the last fifth gave {gain} on {last_fifth.num_images} images"


def _usage(manifest: Manifest) -> str:
    masks, decoding = ", `masks`" if manifest.contract.mask_frame else "", manifest.contract.decoding
    outputs = f"outputs `boxes`, `scores` (0 for unused entries), `labels`, `converged`{masks}."
    if decoding is not None:
        raw = ", ".join(f"`{name}`" for name in decoding.outputs)
        outputs = f"outputs {raw}, of which boxes are made on the host; docs/host-decoding.md of edgedistill says how."
    return f"""## Use

From this folder. edgedistill is not on PyPI; `pip wheel --no-deps .` in its folder makes its wheel:

    pip install "edgedistill-VERSION-py3-none-any.whl[serve]"
    edgedistill predict . photo.jpg --out ~/found
    edgedistill serve .
    curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/detect

Boxes are returned in pixels of the original image. `{manifest.onnx}` is the graph that the engine was built from: input `images`
(float32, [batch, 3, height, width]), {outputs}"""


def _measured(manifest: Manifest) -> str:
    if manifest.accuracy is None or manifest.latency is None:
        return f"## Measured\n\nNothing: {manifest.why}. Measure it on its target machine before trusting it."
    speeds = [f"{one.low:.2f} to {one.high:.2f} times as fast as the {_OTHERS[name]}" for name, one in manifest.speedups.items()]
    ratios = [f"From pixels to boxes, in one measurement with the others: {', '.join(speeds)} (95% intervals)."] if speeds else []
    latency = _latency(manifest.latency, manifest.machine, manifest.lowest_ms)
    return "\n\n".join(["## Measured", _accuracy(manifest.accuracy), *ratios, latency])


def _gain(gain: DistillationGain | None) -> str:
    """What the network learned from its teacher; nothing for bundles of earlier versions, which do not know."""
    if gain is None:
        return ""
    if not gain.ordered():
        return _ungained(gain)
    kinds = {"cost": "for as long", "steps": "for as many steps", "steps and cost": "for as many steps, which took as long"}
    gained = [(equal, over, "undefined" if over.gain is None else f"{over.gain:+.4f}") for equal, over in gain.ordered()]
    rows = [(f"baseline at equal {equal}", str(over.epochs), _number(over.map), led, _ends(over)) for equal, over, led in gained]
    known = [("this network", str(gain.epochs), _number(gain.student_map)), ("its teacher", "", _number(gain.teacher_map))]
    table = _table(("", "epochs", "mAP", "gain", "95% interval"), [*rows, *((*row, "", "") for row in known)])
    words = " or ".join(kinds[equal] for equal, _ in gain.ordered())
    ratio = gain.step_ratio
    takes = "" if ratio is None else f" A step with the teacher takes {ratio.ratio:.2f} times as long as one without."
    why = "" if gain.left_out is None else f" There is no baseline at equal cost: {gain.left_out}."
    about = f"A baseline is the same network trained {words} without the teacher.{takes}{why}"
    return f"## Distillation\n\n{about} Measured in torch on {gain.num_images} images of split {gain.split}:\n\n{table}"


def _ungained(gain: DistillationGain) -> str:
    """Of a network that learned from images without labels only, and has no baseline."""
    found, why = gain.agreement, "" if gain.left_out is None else f" There is no baseline: {gain.left_out}."
    if found is None:
        return f"## Distillation\n\nThe network learned from its teacher only.{why}"
    boxes = f"the {found.num_boxes} boxes that its teacher is sure of in {gain.num_images} images of split {gain.split}"
    agrees = f"mAP {_number(found.map)}, at IoU 0.5 {_number(found.map_50)}"
    return (
        f"## Distillation\n\nThe network learned from its teacher only.{why} Its agreement with {boxes}: {agrees}. That is not accuracy: "
        "it does not know what the teacher gets wrong."
    )


def _robustness(found: RobustnessFigures | None) -> str:
    """Accuracy on other splits, in groups and on corrupted images; nothing if it was not measured."""
    if found is None:
        return ""
    rows = [(f"mAP, split {name}", str(one.num_images), _number(one.map)) for name, one in found.splits.items()]
    for title, groups in found.groups.items():
        few = {name: "" if one.counts else ", too few images" for name, one in groups.items()}
        rows += [(f"mAP, {title}: {name}{few[name]}", str(one.num_images), _number(one.map)) for name, one in groups.items()]
    if (sweep := found.sweep) is not None:
        severities = "severity 3" if sweep.mode == "quick" else "severities 1 to 5"
        count = str(sweep.num_images)
        rows += [("mAP of the images of the sweep as they are", count, _number(sweep.clean))]
        rows += [
            (f"mPC, mean mAP over 15 corruptions at {severities}", count, _number(sweep.mpc)),
            ("rPC, mPC / mAP", count, _number(sweep.rpc)),
        ]
        for name, row in sweep.maps.items():
            values = [value for value in row.values() if value is not None]
            rows.append((f"mAP, {name.replace('_', ' ')}", count, _number(sum(values) / len(values) if values else None)))
    return "## Robustness\n\nMeasured with the engine itself:\n\n" + _table(("", "images", "0 to 1"), rows)


def _ends(over: GainOver) -> str:
    return "too few images" if over.low is None or over.high is None else f"{over.low:+.4f} to {over.high:+.4f}"


def _accuracy(accuracy: Accuracy) -> str:
    rows = [(title, _number(getattr(accuracy, name))) for name, title in _NUMBERS.items()]
    if accuracy.segmentation is not None:
        rows.append(("mAP of masks", _number(accuracy.segmentation.map)))
    rows += [(f"mAP, {name}", _number(value)) for name, value in accuracy.per_class.items()]
    return f"Measured with the engine itself on {accuracy.num_images} images of split {accuracy.split}:\n\n" + _table(("", "0 to 1"), rows)


def _latency(latency: Latency, machine: dict[str, str], lowest: float | None) -> str:
    def row(title: str, values: Percentiles) -> tuple[str, ...]:
        return (title, *(f"{value:.2f}" for value in (values.p50, values.p90, values.p95, values.p99)))

    table = _table(("ms per image", "p50", "p90", "p95", "p99"), [row(title, getattr(latency, part)) for part, title in _PARTS.items()])
    least = "" if lowest is None else f"\n\nAt this machine's peak rates the network alone would take at least {lowest:.2f} ms."
    return f"One image at a time, {latency.num_passes} passes on {', '.join(machine.values())}:\n\n{table}{least}"


def _gates(manifest: Manifest) -> str:
    if not manifest.verdicts:
        return "## Gates\n\nNone were set."
    rows = [(one.name, one.verdict, _judged(one), one.limit, one.why or "") for one in manifest.verdicts]
    return "## Gates\n\n" + _table(("gate", "verdict", "measured", "limit", ""), rows)


def _judged(one: Verdict) -> str:
    """The number that a gate judged, with enough digits to tell it from the gate's limit."""
    text = _number(one.measured)
    return text if one.measured is None else limits.told_apart(one.measured, text, limits.bounds(one.limit))


def _contract(manifest: Manifest) -> str:
    chosen = manifest.contract.preprocessing.model_dump(mode="json")
    return "## Preprocessing\n\n" + _table(("", ""), [(name, str(value)) for name, value in chosen.items()])


def _origin(manifest: Manifest) -> str:
    made = manifest.provenance
    rows = [
        ("edgedistill", made.edgedistill),
        ("Python", f"{made.python}, {made.platform}"),
        ("git commit", made.git_commit or "none"),
        ("packages", ", ".join(f"{name} {version}" for name, version in made.packages.items())),
        *((f"artifact: {name}", key) for name, key in made.artifacts.items()),
    ]
    return "## Provenance\n\n" + _table(("", ""), rows)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([in_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
