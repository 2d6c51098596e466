"""The measured numbers by the names that gates use."""

from deploy import plugins
from deploy.contract import Accuracy, CocoNumbers, Latency, Percentiles

_ACCURACY = tuple(CocoNumbers.model_fields)
_MASKS = {f"mask_{name}": name for name in ("map", "map_50", "map_75")}
_PARTS = ("pre", "infer", "post", "end_to_end")
_PERCENTILES = tuple(Percentiles.model_fields)
NAMES = (*_ACCURACY, *_MASKS, "bytes", *(f"latency_{part}_{percentile}_ms" for part in _PARTS for percentile in _PERCENTILES))


def check(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: there is no such metric; the message lists those there are.
    """
    if name not in NAMES:
        allowed = ", ".join([*_ACCURACY, *_MASKS, "bytes", f"latency_<{'|'.join(_PARTS)}>_<{'|'.join(_PERCENTILES)}>_ms"])
        raise ValueError(f"no metric '{name}'{plugins.suggest(name, NAMES)}; choose from {allowed}")
    return name


def value(name: str, accuracy: Accuracy | None, latency: Latency | None, size_bytes: int | None) -> float | None:
    """The metric, None where it was not measured or is undefined.

    Raises:
        ValueError: there is no such metric.
    """
    check(name)
    if name == "bytes":
        return size_bytes
    if name in _ACCURACY:
        return _number(accuracy, name)
    if name in _MASKS:
        return _number(accuracy and accuracy.segmentation, _MASKS[name])
    if latency is None:
        return None
    part, _, percentile = name.removeprefix("latency_").removesuffix("_ms").rpartition("_")
    return float(getattr(getattr(latency, part), percentile))


def _number(numbers: CocoNumbers | None, name: str) -> float | None:
    return None if numbers is None else dict(numbers)[name]
