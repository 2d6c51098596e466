"""Whether a manifest agrees with itself, with its graph and with its files: what hashes cannot tell of one that was edited."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy import plugins
from deploy.bundles.manifest import Manifest, Verdict
from deploy.comparison import limits, metrics
from deploy.comparison.metrics import Figures
from deploy.contract import Accuracy, CocoNumbers, Latency, Percentiles, Ratio
from deploy.runtimes.onnx_files.header import Header, Value

_FLOAT, _INTEGER, _TRUTH = 1, 7, 9


def problems(manifest: Manifest, engine_bytes: int | None) -> Iterator[str]:
    """What is contradictory, in words, the most fundamental first.

    Args:
        engine_bytes: the size of the engine's file.
    """
    yield from _of_classes(manifest)
    yield from _of_options(manifest)
    yield from _of_plan(manifest)
    yield from _of_presence(manifest)
    yield from _of_figures(manifest)
    for one in manifest.verdicts:
        reason = _wrong(one, manifest, engine_bytes)
        if reason is not None:
            yield f"gate '{one.name}' is stored as {one.verdict}, but {reason}"
    yield from _of_gates(manifest)


def graph_problems(manifest: Manifest, header: Header, *, engine: bool = False) -> Iterator[str]:
    """Where the graph, or the engine if it is an ONNX file, has other inputs and outputs than the manifest; both may leave sizes open."""
    size, most = manifest.contract.preprocessing, num_rows(manifest, header)
    images = header.inputs.get("images")
    if images is None:
        yield "the graph has no input images"
        return
    if not _fits(images, _FLOAT, (None, 3, size.height, size.width)):
        yield f"the graph's images are {_shown(images)}, those of the contract 3 x {size.height} x {size.width}"
    if manifest.graph.dynamic_batch and images[1] and images[1][0] is not None:
        yield f"dynamic_batch is true, but the graph's images are {_shown(images)}"
    expected = _raw_outputs(manifest) if manifest.contract.decoding is not None else _outputs(manifest, most)
    if manifest.contract.mask_frame is None and "masks" in header.outputs:
        yield "the graph has masks, but the contract has no mask_frame"
    for name, (kind, shape) in expected.items():
        found = header.outputs.get(name)
        if found is None or not _fits(found, kind, shape):
            has = "nothing of that name" if found is None else _shown(found)
            yield f"output {name} should be {' x '.join('any' if one is None else str(one) for one in shape)}, the graph has {has}"
    if not engine and header.opset not in (0, manifest.graph.opset):
        yield f"opset is {manifest.graph.opset}, the graph's {header.opset}"


def num_rows(manifest: Manifest, header: Header | None) -> int:
    """Boxes that an answer has for each image: as many as are allowed, or fewer if the graph has fewer candidates."""
    if manifest.contract.decoding is not None:
        return manifest.contract.decoding.max_detections
    own = () if header is None else header.outputs.get("scores", (_FLOAT, ()))[1][1:2]
    return min([manifest.graph.max_detections, *(count for count in own if count is not None)])


def _outputs(manifest: Manifest, most: int) -> dict[str, tuple[int, tuple[int | None, ...]]]:
    expected: dict[str, tuple[int, tuple[int | None, ...]]] = {"boxes": (_FLOAT, (None, most, 4)), "scores": (_FLOAT, (None, most))}
    expected |= {"labels": (_INTEGER, (None, most)), "converged": (_TRUTH, (None,))}
    if manifest.contract.mask_frame is not None:
        expected["masks"] = (_FLOAT, (None, most, None, None))
    return expected


def _raw_outputs(manifest: Manifest) -> dict[str, tuple[int, tuple[int | None, ...]]]:
    """Those of a graph whose boxes are decoded on the host."""
    decoding, num_classes = manifest.contract.decoding, len(manifest.contract.classes)
    assert decoding is not None
    last: dict[str, tuple[int | None, ...]] = {"class_logits": (num_classes,), "box_distributions": (4, None), "quality": (1,)}
    return {name: (_FLOAT, (None, decoding.num_rows, *last.get(name, (4,)))) for name in decoding.outputs}


def _fits(found: Value, kind: int, shape: tuple[int | None, ...]) -> bool:
    if found[0] != kind:
        return False
    pairs = zip(found[1], shape, strict=True) if len(found[1]) == len(shape) else None
    return not found[1] or (pairs is not None and all(a is None or b is None or a == b for a, b in pairs))


def _shown(value: Value) -> str:
    return " x ".join("any" if size is None else str(size) for size in value[1]) or "of no shape"


def _of_classes(manifest: Manifest) -> Iterator[str]:
    contract = manifest.contract
    if len(contract.classes) != len(contract.category_ids):
        yield f"{len(contract.classes)} classes, but {len(contract.category_ids)} category_ids"
    if not contract.classes:
        yield "there is no class"
    if len(set(contract.category_ids)) < len(contract.category_ids):
        yield "two classes have the same category id"
    unknown = next((name for name in (manifest.accuracy.per_class if manifest.accuracy else ()) if name not in contract.classes), None)
    if unknown is not None:
        yield f"accuracy has a class '{unknown}', the contract has none"


def _of_options(manifest: Manifest) -> Iterator[str]:
    own = {name: value for name, value in manifest.options.items() if name != "runtime"}
    if own != manifest.options:
        yield "options: no option 'runtime'"
    try:
        plugins.fill("deploy.runtimes", {"runtime": manifest.runtime, **own}, key="runtime", function="compile")
    except ValueError as error:
        yield f"options: {error}"


def _of_plan(manifest: Manifest) -> Iterator[str]:
    """What is read of a plan before its targets and gates are checked as a whole."""
    for number, target in enumerate(manifest.plan.targets):
        if not isinstance(target.get("name"), str):
            yield f"plan.targets.{number}.name should be text"
        if not isinstance(target.get("max_map_drop"), int | float | None):
            yield f"plan.targets.{number}.max_map_drop should be a number"
    yield from (
        f"plan.gates.{number}.metric should be text"
        for number, gate in enumerate(manifest.plan.gates)
        if not isinstance(gate.get("metric"), str)
    )


def _of_presence(manifest: Manifest) -> Iterator[str]:
    if manifest.engine is None and manifest.why is None:
        yield "there is neither an engine nor a reason why not"
    if manifest.why is None and manifest.latency is None:
        yield "nothing was measured, and there is no reason why not"
    if manifest.graph.sha256 != manifest.files.get(manifest.onnx):
        yield f"graph.sha256 is not that of {manifest.onnx}"


def _of_figures(manifest: Manifest) -> Iterator[str]:
    graph = manifest.graph
    counts = {"max_detections": graph.max_detections, "opset": graph.opset, "bytes": graph.bytes}
    yield from (f"graph.{name} is {count}, allowed: 1 or more" for name, count in counts.items() if count < 1)
    yield from _of_accuracy(manifest.accuracy)
    yield from _of_latency(manifest.latency)
    for name, ratio in manifest.speedups.items():
        if not _is_interval(ratio):
            yield f"speedups.{name}: {ratio.ratio:g} should be between {ratio.low:g} and {ratio.high:g}, above 0"


def _of_accuracy(accuracy: Accuracy | None) -> Iterator[str]:
    if accuracy is None:
        return
    figures: dict[str, Any] = {**_numbers(accuracy), **{f"per_class.{name}": value for name, value in accuracy.per_class.items()}}
    if accuracy.segmentation is not None:
        figures |= {f"segmentation.{name}": value for name, value in _numbers(accuracy.segmentation).items()}
    yield from (
        f"accuracy.{name} is {value}, allowed: 0 to 1" for name, value in figures.items() if value is not None and not 0 <= value <= 1
    )
    if accuracy.num_images < 1:
        yield f"accuracy.num_images is {accuracy.num_images}, allowed: 1 or more"


def _numbers(found: CocoNumbers) -> Mapping[str, float | None]:
    return {name: getattr(found, name) for name in CocoNumbers.model_fields}


def _of_latency(latency: Latency | None) -> Iterator[str]:
    if latency is None:
        return
    for name in Latency.model_fields:
        value = getattr(latency, name)
        if isinstance(value, Percentiles) and not 0 <= value.p50 <= value.p90 <= value.p95 <= value.p99:
            yield f"latency.{name}: percentiles should rise from 0 or more"
    if latency.num_passes < 1 or latency.seconds <= 0:
        yield f"latency is of {latency.num_passes} passes in {latency.seconds:g} s"


def _is_interval(ratio: Ratio) -> bool:
    return 0 < ratio.low <= ratio.ratio <= ratio.high


def _wrong(one: Verdict, manifest: Manifest, engine_bytes: int | None) -> str | None:
    """Why a pass is none: computed again from what was measured and the limit."""
    if one.target != manifest.target:
        return f"it is on target '{one.target}', not '{manifest.target}'"
    if one.verdict != "pass":
        return None
    try:
        passed = limits.holds(one.limit, one.measured, one.effect)
        figures = Figures(
            manifest.accuracy, manifest.latency, engine_bytes, manifest.cost, manifest.graph.network, speedups=manifest.speedups
        )
        figure = None if one.effect is not None else metrics.value(metrics.check(one.metric), figures)
    except ValueError as error:
        return str(error)
    if passed is None or (one.effect is not None and one.why is not None):  # a clear verdict on a change has no reason
        passed = any(gate.get("on_noise") == "pass" and gate.get("metric") == one.metric for gate in manifest.plan.gates)
    if not passed:
        return f"{one.measured:g} is not within its limit, {one.limit}" if one.effect is None else f"its interval is not within {one.limit}"
    if figure is not None and one.measured is not None and not math.isclose(figure, one.measured, rel_tol=1e-9, abs_tol=1e-12):
        return f"its {one.metric} is {one.measured:g}, and {figure:g} in the rest of the manifest"
    return None


def _of_gates(manifest: Manifest) -> Iterator[str]:
    """The gates of the plan that need only this engine and have no verdict."""
    judged = {(one.metric, one.limit) for one in manifest.verdicts}
    for gate in manifest.plan.gates:
        metric, limit = gate.get("metric"), limits.of_gate(gate)
        applies = gate.get("target") in (None, manifest.target) and metric not in (*metrics.FROM, *metrics.SPEEDUPS)
        if metrics.is_robust(str(metric)) and manifest.robustness is None:
            continue  # built outside a pipeline, which alone measures it
        if applies and limit is not None and (metric, limit) not in judged:
            yield f"its plan has the gate {metric} {limit}, on which there is no verdict"


def engine_size(root: Path, manifest: Manifest) -> int | None:
    """Bytes of the engine's file; None if there is none."""
    return None if manifest.engine is None else (root / manifest.engine).stat().st_size
