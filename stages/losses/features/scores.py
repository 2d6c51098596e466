"""How sure a network is of an object at each position, from its head."""

from torch import Tensor

from stages.detectors import Outputs


def score_logits(outputs: Outputs) -> list[Tensor]:
    """Logits per level, [B, A, K, H, W] in float32 for A anchors: of K classes, or of objectness (K = 1) in two-stage detectors."""
    rows = outputs.head["objectness" if "objectness" in outputs.head else "class_logits"]
    maps = []
    for level, features in zip(rows, outputs.pyramid, strict=True):
        batch, _, num_classes = level.shape
        maps.append(level.float().reshape(batch, *features.shape[-2:], -1, num_classes).permute(0, 3, 4, 1, 2))
    return maps


def comparable(own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both networks' logits [B, A, K, H, W] as [B, X, H, W]: of their best class or anchor, if they differ in their numbers."""
    for dim in (2, 1):
        if own.shape[dim] != other.shape[dim]:
            own, other = own.amax(dim=dim, keepdim=True), other.amax(dim=dim, keepdim=True)
    return own.flatten(1, 2), other.flatten(1, 2)
