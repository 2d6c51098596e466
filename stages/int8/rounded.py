"""A detector made ready to be trained for int8."""

import torch

from deploy.precision import Batch, Calibration
from deploy.precision.placement import Array, values
from stages.config import ExportConfig
from stages.detectors import Detector
from stages.int8.folding import fold, freeze
from stages.int8.forms import Int8Forms, heads_of
from stages.int8.rounding import Rounding
from stages.int8.sites import agree, find, not_rounded

_TRIES = 4
"""The images of which one must agree. A sum that ends on the other side of a half in torch is rare, but where a network weighs channels by
their means over the image, one such sum changes everything that follows."""


def rounded_detector(detector: Detector, forms: Int8Forms, export: ExportConfig, images: Calibration) -> tuple[Detector, Rounding]:
    """The detector with its batch norms folded and exactly the graph's weights, and its rounding, checked against the int8 graph.

    Args:
        images: what is computed on the first finds the places; the first ones are compared until one agrees.

    Raises:
        ConfigError: the detector computes something in a different way in torch than in its graph.
    """

    def heads(image: Batch) -> list[Array]:
        return heads_of(detector, export, torch.from_numpy(image))

    names = list(forms.heads.outputs)
    with torch.no_grad():
        folded = fold(detector.eval(), lambda: heads(images[0]))
    plain = values(forms.folded, [*forms.table.steps, *names], images[0])
    rounding = find(detector, lambda: heads(images[0]), forms.table, plain, forms.weights, folded, forms.limit)
    freeze(folded)
    for index in range(min(_TRIES, len(images))):
        image = images[index]
        with rounding:
            own = heads(image)
        rounded, exact = ([values(model, names, image)[name] for name in names[: len(own)]] for model in (forms.typed, forms.folded))
        if agree(own, rounded, exact):
            return detector, rounding
    raise not_rounded(detector, "rounding")
