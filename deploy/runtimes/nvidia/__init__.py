"""Code shared by the two TensorRT runtimes."""

from collections.abc import Mapping
from typing import Any

from deploy.precision import Recipe

INTEGERS = Recipe(signed_activations=True, quantize_bias=False, quantize_outputs=False)
"""TensorRT supports only symmetric ranges, adds the bias in float, and fuses convolution and ReLU if no rounding separates them."""


def why_never(options: Mapping[str, Any]) -> str | None:
    """Why no engine with these options can be built on any machine; None if one can."""
    best, most = options["best_batch"], options["max_batch"]
    return f"best_batch {best} is above max_batch {most}; raise max_batch" if best > most else None
