"""A detector made ready to be trained for int8."""

import torch

from deploy.precision import Batch
from deploy.precision.placement import values
from stages.config import ExportConfig
from stages.detectors import Detector
from stages.int8.folding import fold, freeze
from stages.int8.forms import Int8Forms, heads_of
from stages.int8.rounding import Rounding
from stages.int8.sites import check, find


def rounded_detector(detector: Detector, forms: Int8Forms, export: ExportConfig, image: Batch) -> tuple[Detector, Rounding]:
    """The detector with its batch norms folded and exactly the graph's weights, and its rounding, checked against the int8 graph.

    Args:
        image: [1, 3, H, W]; what is computed on it finds the places, and is compared.

    Raises:
        ConfigError: the detector computes something in a different way in torch than in its graph.
    """
    pixels = torch.from_numpy(image)
    found, heads = forms.table, list(forms.heads.outputs)
    with torch.no_grad():
        folded = fold(detector.eval(), lambda: heads_of(detector, export, pixels))
    plain = values(forms.folded, [*found.steps, *heads], image)
    rounding = find(detector, lambda: heads_of(detector, export, pixels), found, plain, forms.weights, folded, forms.limit)
    freeze(folded)
    with rounding:
        own = heads_of(detector, export, pixels)
    expected = values(forms.typed, heads, image)
    chosen = heads[: len(own)]
    check(detector, own, [expected[name] for name in chosen], [plain[name] for name in chosen])
    return detector, rounding
