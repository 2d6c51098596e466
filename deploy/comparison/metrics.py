"""The measured and the counted metrics, under the names that gates use."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy import plugins
from deploy.contract import Accuracy, CocoNumbers, Cost, Latency, NetworkFacts, Percentiles, Ratio

_ACCURACY = tuple(CocoNumbers.model_fields)
_MASKS = {f"mask_{name}": name for name in ("map", "map_50", "map_75")}
_PARTS = ("pre", "infer", "post", "end_to_end")
_PERCENTILES = tuple(Percentiles.model_fields)
_LATENCIES = tuple(f"latency_{part}_{percentile}_ms" for part in _PARTS for percentile in _PERCENTILES)
_NETWORK = ("parameters", "macs")
_COST = ("engine_macs", "operators", "weight_bytes", "peak_activation_bytes")
GAINS = {"gain_map": "baseline", "gain_map_equal_cost": "baseline_equal_cost"}
"""The baseline that each gain is over: the one with as many steps as the student, and the one that was trained for as long."""
MASK_GAINS = {f"gain_mask_{name.removeprefix('gain_')}": network for name, network in GAINS.items()}
FROM = {**GAINS, **MASK_GAINS, "teacher_drop_map": "teacher", "student_drop_map": "student"}
"""The network that each difference is from."""
SPEEDUPS = {"speedup_over_teacher": "teacher", "speedup_over_baseline": "baseline", "speedup_over_float": "float"}
"""The engine that each speedup compares with: how many times as long that one takes."""
OF_CLASS = "map/"
ON_SPLIT, WORST_GROUP, MPC, RPC = "map@", "map_worst_group", "mpc", "rpc"
ROBUST = (WORST_GROUP, MPC, RPC)
"""What the section `robustness` measures, in addition to `map@<split>`."""
NAMES = (*_ACCURACY, *_MASKS, *FROM, *_LATENCIES, *SPEEDUPS, "images_per_s", "bytes", *_NETWORK, *_COST, *ROBUST)
MATCHED = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", *_MASKS)
"""Metrics that can be recomputed for any selection of the images."""
EXACT = ("bytes", *_NETWORK, *_COST)
"""Metrics that are counted, not measured."""
COMPARED = (*MATCHED, f"{OF_CLASS}<class>", f"{ON_SPLIT}<split>", *ROBUST, *_LATENCIES, *EXACT)
FORMER_NAMES = {"undistilled": "baseline", "torch_drop_map": "student_drop_map"}
"""Networks and metrics that earlier versions called differently. Their bundles and histories are read under the present names;
configurations must use the present ones."""


@dataclass(frozen=True)
class Figures:
    """Every known figure of one engine.

    `maps` and `mask_maps` hold the mAP of teacher, baselines and student; `speedups` how many times as long other engines take;
    `robust` the values of robustness by the metrics' names.
    """

    accuracy: Accuracy | None = None
    latency: Latency | None = None
    bytes: int | None = None
    cost: Cost | None = None
    network: NetworkFacts | None = None
    maps: Mapping[str, float | None] = field(default_factory=dict)
    speedups: Mapping[str, Ratio] = field(default_factory=dict)
    mask_maps: Mapping[str, float | None] = field(default_factory=dict)
    robust: Mapping[str, float | None] = field(default_factory=dict)


def check(name: str) -> str:
    """The name itself; "map/<class>" is accepted for any class, "map@<split>" for any split.

    Raises:
        ValueError: unknown metric; the message lists the known ones.
    """
    if FORMER_NAMES.get(name) in NAMES:
        raise ValueError(f"metric '{name}' is now called {FORMER_NAMES[name]}")
    if name not in NAMES and not name.startswith((OF_CLASS, ON_SPLIT)):
        words = f"latency_<{'|'.join(_PARTS)}>_<{'|'.join(_PERCENTILES)}>_ms"
        allowed = ", ".join([*(one for one in NAMES if one not in _LATENCIES), f"{OF_CLASS}<class>", f"{ON_SPLIT}<split>", words])
        raise ValueError(f"no metric '{name}'{plugins.suggest(name, NAMES)}; choose from {allowed}")
    return name


def is_accuracy(name: str) -> bool:
    """Whether the metric comes from detections on labeled images."""
    return name in _ACCURACY or name in _MASKS or name in FROM or name.startswith(OF_CLASS)


def is_robust(name: str) -> bool:
    """Whether the section `robustness` measures the metric."""
    return name in ROBUST or name.startswith(ON_SPLIT)


def can_be_compared(name: str) -> bool:
    """Whether a change of the metric can be judged; true for unknown names, which `check` refuses."""
    return name in COMPARED or name.startswith((OF_CLASS, ON_SPLIT)) or name not in NAMES


def latency_part(name: str) -> tuple[str, float] | None:
    """The part of a pass and the percentile of a latency metric; None for other metrics."""
    if name not in _LATENCIES:
        return None
    part, _, percentile = name.removeprefix("latency_").removesuffix("_ms").rpartition("_")
    return part, float(percentile.removeprefix("p"))


def value(name: str, figures: Figures) -> float | None:
    """The metric; None if it was not measured or is undefined.

    Raises:
        ValueError: unknown metric or class.
    """
    check(name)
    if is_accuracy(name):
        return _of_accuracy(name, figures)
    if name in EXACT:
        return _counted(name, figures)
    if is_robust(name) or name in SPEEDUPS:
        ratio = figures.speedups.get(SPEEDUPS.get(name, ""))
        return figures.robust.get(name) if ratio is None else ratio.ratio
    if figures.latency is None:
        return None
    if name == "images_per_s":
        return figures.latency.num_passes / figures.latency.seconds
    part, percentile = latency_part(name) or ("", 0.0)
    return float(getattr(getattr(figures.latency, part), f"p{percentile:g}"))


def _counted(name: str, figures: Figures) -> float | None:
    if name == "bytes":
        return figures.bytes
    if name in _NETWORK:
        return None if figures.network is None else float(getattr(figures.network, name))
    if figures.cost is None:
        return None
    if name == "operators":
        return float(sum(figures.cost.operators.values()))
    return float(getattr(figures.cost, "macs" if name == "engine_macs" else name))


def _of_accuracy(name: str, figures: Figures) -> float | None:
    accuracy = figures.accuracy
    if accuracy is None:
        return None
    if name.startswith(OF_CLASS):
        wanted = name.removeprefix(OF_CLASS)
        if wanted not in accuracy.per_class:
            raise ValueError(
                f"no class '{wanted}'{plugins.suggest(wanted, accuracy.per_class)}; choose from {', '.join(accuracy.per_class)}"
            )
        return accuracy.per_class[wanted]
    if name in FROM:
        masks = name in MASK_GAINS
        own = accuracy.map if not masks else None if accuracy.segmentation is None else accuracy.segmentation.map
        other = (figures.mask_maps if masks else figures.maps).get(FROM[name])
        if other is None or own is None:
            return None
        return other - own if name.endswith("_drop_map") else own - other
    if name in _MASKS:
        return None if accuracy.segmentation is None else dict(accuracy.segmentation)[_MASKS[name]]
    number: float | None = dict(accuracy)[name]
    return number
