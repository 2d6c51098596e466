"""Whether images without labels show the same world as the labeled ones, by the features of the detector that labels them.

An image is described by the mean and the deviation of each channel at every level of the pyramid, standardized over the training images;
its distance is the one to the nearest of these. The judged split, which nothing was trained on, says which distances are usual.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.accuracy.spread import spread
from deploy.contract import Preprocessing
from deploy.prediction import image_files, preprocess
from deploy.progress import track
from stages.artifacts import Dataset
from stages.detectors import Detector

MOST_IMAGES = 200
"""Of train, of the judged split and of the unlabeled images, evenly spread."""
MIN_IMAGES = 8
"""With fewer of any of the three, nothing is compared."""
USUAL = 0.95

Floats = NDArray[np.float64]


def unlike(network: Detector, dataset: Dataset, split: str, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of the images farther from train's than 95% of the split's are; None if there are too few images of any of them."""
    labeled = (dataset.table(one).files(dataset.images(one)) for one in ("train", split))
    names = [*labeled, [Path(row["file_name"]) for row in rows]]
    if min(map(len, names)) < MIN_IMAGES:
        return None
    preprocessing = dataset.facts.contract.preprocessing
    known, usual, new = (_described(network, spread(paths, MOST_IMAGES), preprocessing) for paths in names)
    return share_beyond(known, usual, new)


def share_beyond(known: Floats, usual: Floats, new: Floats) -> float:
    """The share of `new` [N, D] with a larger distance to the nearest of `known` [K, D] than 95% of `usual` [U, D] have."""
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    varied = deviation > 1e-6 * max(1.0, float(np.abs(known).max()))
    scaled = [(values[:, varied] - mean[varied]) / deviation[varied] for values in (known, usual, new)]
    limit = np.quantile(_nearest(scaled[1], scaled[0]), USUAL)
    return float((_nearest(scaled[2], scaled[0]) > limit).mean())


def _nearest(values: Floats, known: Floats) -> Floats:
    return np.array([np.sqrt(((known - one) ** 2).mean(axis=1)).min() for one in values])


@torch.no_grad()
def _described(network: Detector, paths: Sequence[Path], preprocessing: Preprocessing) -> Floats:
    device = next(network.parameters()).device
    rows = []
    for path in track(paths, "compare images", len(paths)):
        seen = image_files.load(path, preprocessing)
        tensor, _ = preprocess.apply(seen.pixels, preprocessing, seen.size)
        levels = network.eval()(torch.from_numpy(tensor)[None].to(device)).pyramid
        parts = [part for level in levels for part in (level.float().mean(dim=(0, 2, 3)), level.float().std(dim=(0, 2, 3), unbiased=False))]
        rows.append(torch.cat(parts).double().cpu().numpy())
    return np.stack(rows)
