"""What the teacher found in images without labels, as text."""

from collections.abc import Mapping
from typing import Any


def pseudo_rows(labels: Mapping[str, Any], number: Any, undefined: str) -> list[list[str]]:
    """One row per class: least score, targets in the unlabeled images, what is ignored, and how right the targets are on labeled ones.

    Args:
        number: how figures are written. undefined: what stands for a figure that there is not.
    """
    rows = []
    for name, one in labels["classes"].items():
        shares = [undefined if one[key] is None else f"{one[key]:.0%}" for key in ("precision", "recall")]
        accept = number(one["accept"], 2)
        rows.append([name, accept, str(one["accepted"]), str(one["ignored"]), *shares, str(one["num_objects"])])
    return rows


HEADER = ("pseudo-labels", "from score", "objects", "ignored", "precision", "recall", "labeled")


def about(found: Mapping[str, Any]) -> list[str]:
    """What the columns are, and what speaks against using the images."""
    labels = found["labels"]
    learned = "" if found["num_learned"] == found["num_images"] else f", of which {found['num_learned']} are learned"
    targets = "none has targets: only features are compared"
    if labels["classes"]:
        targets = f"without a target: {labels['empty']}; precision and recall of targets on the labeled objects of split {labels['split']}"
    return [
        f"unlabeled images: {found['num_images']}{learned}; {targets}",
        *_joined(labels),
        *(f"! unlabelled: {line}" for line in labels["warnings"]),
    ]


def _joined(labels: Mapping[str, Any]) -> list[str]:
    """What joining several views of an image gave, on labeled images."""
    if not labels["views"] or labels["map"] is None or labels["plain_map"] is None:
        return []
    reached = f"map {labels['map']:.4f} on split {labels['split']}, {labels['plain_map']:.4f} by one view"
    return [f"detections in each image as it is are joined with those in other views ({', '.join(labels['views'])}): {reached}"]
