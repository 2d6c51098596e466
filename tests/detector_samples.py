"""Every detector in a tiny form, for tests that build one. A detector without an entry is built with its defaults."""

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "fcos": {"backbone": "resnet10", "width": 8, "fpn_channels": 32, "strides": (8, 16, 32), "head_convs": 1, "range_scale": 0.5},
}
