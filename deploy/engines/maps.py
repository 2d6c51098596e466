"""mAP of engines on one split; each engine is judged only once."""

from pathlib import Path

from deploy import plugins
from deploy.accuracy.judge import LabeledSplit, judge
from deploy.contract import ModelContract
from deploy.engines.request import BuildRequest
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import PACKAGE


class EngineMaps:
    """Opens engines as they are deployed, with the given number of threads, and judges them on the split."""

    def __init__(self, contract: ModelContract, split: LabeledSplit, threads: int | None) -> None:
        self._contract = contract
        self._split = split
        self._threads = threads
        self._found: dict[Path, float | None] = {}

    def of(self, file: Path, request: BuildRequest, label: str) -> float | None:
        """An engine's mAP, 0 to 1; None if the split has no objects.

        Raises:
            ArtifactError: its answer to an image is invalid.
            RuntimeUnavailable: it cannot be opened on this machine.
        """
        if file not in self._found:
            with plugins.load(PACKAGE, request.runtime).open(file, threads=self._threads, options=request.options) as session:
                self._found[file] = judge(SessionPredictor(session, self._contract), self._split, label).accuracy.map
        return self._found[file]
