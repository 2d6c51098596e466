"""A detector made ready to be trained for int8."""

from collections.abc import Callable

import torch

from deploy.precision import Batch, Calibration
from deploy.precision.placement import Array, RoundingTable, rounded_values, values
from stages.config import ExportConfig
from stages.detectors import Detector
from stages.int8.folding import fold, freeze
from stages.int8.forms import Int8Forms, heads_of
from stages.int8.rounding import Rounding
from stages.int8.rounding_check import RoundingCheck
from stages.int8.sites import find, not_rounded

_TRIES = 4
"""The images of which one must agree: proposals may change places where two scores are equal but for their last bits."""


def rounded_detector(detector: Detector, forms: Int8Forms, export: ExportConfig, images: Calibration) -> tuple[Detector, Rounding]:
    """The detector with its batch norms folded and exactly the graph's weights, and its rounding, checked against the int8 graph.

    Args:
        images: what is computed on the first finds the places; the first ones are compared until one agrees.

    Raises:
        ConfigError: the detector computes something in a different way in torch than in its graph.
    """

    def heads(image: Batch) -> list[Array]:
        return heads_of(detector, export, torch.from_numpy(image))

    table, names = forms.table, list(forms.heads.outputs)
    with torch.no_grad():
        folded = fold(detector.eval(), lambda: heads(images[0]))
    plain = values(forms.folded, [*table.steps, *names], images[0])
    rounding = find(detector, lambda: heads(images[0]), table, plain, forms.weights, folded, forms.limit)
    freeze(folded)
    why: str | None = "an image"
    for index in range(min(_TRIES, len(images))):
        why = _refused(forms, table, rounding, heads, images[index])
        if why is None:
            return detector, rounding
    assert why is not None
    raise not_rounded(detector, why)


def _refused(forms: Int8Forms, table: RoundingTable, rounding: Rounding, heads: Callable[[Batch], list[Array]], image: Batch) -> str | None:
    """What differs from the int8 graph on an image."""
    check = RoundingCheck(table, rounded_values(forms.typed, image))
    rounding.replace = check.take
    with rounding:
        own = heads(image)
    rounding.replace = None
    names = list(forms.heads.outputs)[: len(own)]
    rounded, exact = ([values(model, names, image)[name] for name in names] for model in (forms.typed, forms.folded))
    return check.refused(own, rounded, exact)
