"""The measured numbers by the names that gates use."""

from deploy import plugins
from deploy.contract import Accuracy, Latency, Percentiles

_ACCURACY = tuple(name for name in Accuracy.model_fields if name.startswith("ma"))
_PARTS = ("pre", "infer", "post", "end_to_end")
_PERCENTILES = tuple(Percentiles.model_fields)
NAMES = (*_ACCURACY, "bytes", *(f"latency_{part}_{percentile}_ms" for part in _PARTS for percentile in _PERCENTILES))


def check(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: there is no such metric; the message lists those there are.
    """
    if name not in NAMES:
        allowed = ", ".join([*_ACCURACY, "bytes", f"latency_<{'|'.join(_PARTS)}>_<{'|'.join(_PERCENTILES)}>_ms"])
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
        number: float | None = getattr(accuracy, name) if accuracy is not None else None
        return number
    if latency is None:
        return None
    part, _, percentile = name.removeprefix("latency_").removesuffix("_ms").rpartition("_")
    return float(getattr(getattr(latency, part), percentile))
