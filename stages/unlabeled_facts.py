"""The contents of artifact.json for images without labels, and for what a teacher finds in them."""

from deploy.contract import Frozen
from stages.notes import Note


class PoolFacts(Frozen):
    """Images without labels; `sha256` is their contents', `notes` lists which files were left out or look doubtful."""

    num_images: int
    sha256: str
    notes: tuple[Note, ...] = ()


class PseudoClass(Frozen):
    """How one class's detections serve as targets.

    accept, low, sure: scores from which a detection is a target, may be an object, has a box that is learned; null: none is.
    precision, recall: of the accepted detections on `num_objects` objects of the judged split (IoU 0.5); null if it has none.
    accepted, ignored: numbers of detections in the unlabeled images that are targets, and that only may be objects.
    """

    accept: float | None
    low: float | None
    sure: float | None
    num_objects: int
    precision: float | None
    recall: float | None
    accepted: int = 0
    ignored: int = 0


class PseudoFacts(Frozen):
    """What a teacher finds in images without labels, by class name.

    `unlike` is the share of the images that are farther from the labeled ones than 95% of the judged split is, `expected` what it would
    be by chance; null if nobody compared them. `empty` is the number of images without a target. `views` are those that were joined
    with each image as it is; `map` is the mAP of the detections so found on the judged split, `plain_map` of those by one view; null
    if it is undefined or was not asked for.
    """

    split: str
    num_images: int
    empty: int
    classes: dict[str, PseudoClass]
    unlike: float | None = None
    expected: float = 0.05
    views: tuple[str, ...] = ()
    map: float | None = None
    plain_map: float | None = None
    warnings: tuple[str, ...] = ()
