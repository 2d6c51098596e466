"""Detectors to and from checkpoint folders."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from deploy import plugins
from deploy.comparison.learning_curve import LearningCurve
from deploy.contract import Accuracy, ModelContract
from deploy.errors import ArtifactError, ConfigError, first_line, plain
from deploy.machine.files import check_regular
from deploy.plugins import OptionRole
from stages.artifacts import WEIGHTS, Checkpoint, Dataset
from stages.config import DetectorConfig, ExportConfig
from stages.detectors import Detector, GraphOptions
from stages.detectors.backbones.pretrained import Origin, Unread, origin
from stages.facts import CheckpointFacts, PluginChoice, write_facts
from stages.measurement.torch_accuracy import graph_options, judge_split
from stages.processes import is_main_process
from stages.training.digests import contract_of
from stages.training.observer import Detections
from stages.training.saved_state import discard

_SEPARATORS = re.compile(r"[\s_-]+")
_OTHER_NAMES = {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv"}
"""What some weights for COCO call its classes, after Pascal VOC."""
_PIXELS = ("color", "mean", "std")
"""The keys of `data.preprocessing` that decide what values a network gets for the colors of an image."""


def build_detector(choice: DetectorConfig, num_classes: int, seed: int = 0, *, pretrained: bool = True) -> Detector:
    """A detector whose fresh weights depend only on the seed.

    Args:
        pretrained: whether to read the weights that the options name; without them it has the same form and fresh weights.

    Raises:
        ConfigError: options that do not go together.
        ArtifactError: weights that are not available or belong to a different detector.
    """
    options = choice.options if pretrained else choice.options | _unread(choice)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            detector = plugins.load("stages.detectors", choice.name).build(num_classes, **options)
        except ValueError as error:
            raise ConfigError(f"detector {choice.name}: {error}") from error
    assert isinstance(detector, Detector)
    detector.name, detector.num_classes = choice.name, num_classes
    return detector


def starting_detector(choice: DetectorConfig, weights: str | None, contract: ModelContract, seed: int) -> Detector:
    """The detector as a training starts: for the contract's classes and size, with the initial weights if a file is named.

    Raises:
        ConfigError: options that do not go together, or an image size that the detector refuses.
        ArtifactError: weights that are not available, belong to a different detector, or are for other classes or values of pixels.
    """
    detector = build_detector(choice, len(contract.classes), seed)
    check_size(detector, choice, contract)
    if weights is not None:
        load_weights(detector, Path(weights))
    check_origin(detector, contract)
    return detector


def _unread(choice: DetectorConfig) -> dict[str, Unread]:
    return {name: Unread(weights) for name, weights in choice.options_of(OptionRole.WEIGHTS).items() if weights is not None}


def check_size(detector: Detector, choice: DetectorConfig, contract: ModelContract) -> None:
    """Refuse an image size that the detector's grid does not divide, or that is too small for it.

    Raises:
        ConfigError: the size is refused; the message names the multiple or the size that is needed.
    """
    for key, value in (("height", contract.preprocessing.height), ("width", contract.preprocessing.width)):
        if value % detector.size_multiple:
            needed = f"{choice.name} as configured needs a multiple of {detector.size_multiple}"
            raise ConfigError(f"data.preprocessing.{key}: got {value}, but {needed}")
        if value < detector.min_side_px:
            needed = f"{choice.name} as configured needs at least {detector.min_side_px}"
            raise ConfigError(f"data.preprocessing.{key}: got {value}, but {needed}")


def check_origin(detector: Detector, contract: ModelContract) -> None:
    """Refuse weights that say that they are for other classes, for another order of them or for other values of pixels.

    Raises:
        ArtifactError: the first of these; the message says what differs.
    """
    found = origin(detector)
    if found is None:
        return
    what, given = f"weights {found.weights}", contract.preprocessing
    for key, learned in found.pixels.items():
        if not _alike(value := getattr(given, key), learned):
            raise ArtifactError(f"{what} were trained with data.preprocessing.{key} {learned}, not {value}; set it to that")
    for index, (theirs, own) in enumerate(zip(found.classes or (), contract.classes, strict=False)):
        if _meant(theirs) != _meant(own):
            remedy = "put the data's classes in the weights' order and spelling, or use weights for them"
            raise ArtifactError(f"{what}: class {index} is {plain(theirs)} in the weights and {plain(own)} in the data; {remedy}")


def _meant(name: str) -> str:
    """The same for all spellings of a class."""
    plainly = _SEPARATORS.sub("", name).casefold()
    return _OTHER_NAMES.get(plainly, plainly)


def _alike(given: object, learned: object) -> bool:
    """Whether a setting of pixels is the learned one, but for rounding."""
    if isinstance(given, tuple) and isinstance(learned, tuple):
        return all(math.isclose(*pair, rel_tol=1e-3, abs_tol=1e-6) for pair in zip(given, learned, strict=True))
    return given == learned


def load_weights(detector: Detector, path: Path, advice: str = "use one of the configured detector") -> None:
    """Fill the detector from a safetensors file, or from a checkpoint folder's; `advice` ends the line of an error.

    What a folder says of its weights is remembered as their origin.

    Raises:
        ArtifactError: the file does not exist, is damaged, or belongs to a different detector.
    """
    file = path / WEIGHTS if path.is_dir() else path
    if file.suffix in (".pth", ".pt"):
        raise ArtifactError(
            f"{file}: `weights` of teacher and student are safetensors files; give this one as `detector: {{weights: ...}}`"
        )
    try:
        check_regular(file)
        state = load_file(str(file))
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{file}: not a readable safetensors file ({first_line(error)}); {advice}") from error
    own = detector.state_dict()
    for name in sorted(own.keys() ^ state.keys()):
        side = "lacks" if name in own else "has an unknown"
        raise ArtifactError(f"{file}: {side} tensor {name}, so it belongs to a different detector; {advice}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
            raise ArtifactError(
                f"{file}: tensor {name} is {shapes}, so it belongs to a detector with different options or classes; {advice}"
            )
    detector.load_state_dict(state)
    if (made := contract_of(path)) is not None:
        pixels = {key: getattr(made.preprocessing, key) for key in _PIXELS}
        detector.origin = Origin(str(path), made.classes, pixels)  # type: ignore[assignment]


def load_detector(checkpoint: Checkpoint) -> Detector:
    """The checkpoint's detector in eval mode, on the CPU."""
    facts = checkpoint.facts
    choice = DetectorConfig.model_validate({"name": facts.detector.name, **facts.detector.options})
    detector = build_detector(choice, len(facts.contract.classes), pretrained=False)
    load_weights(detector, checkpoint.file(WEIGHTS), f"delete {checkpoint.root} and run again")
    return detector.eval()


def count_macs(detector: Detector, contract: ModelContract, options: GraphOptions) -> int:
    """Multiply-accumulates of the deployed graph for one image at the contract's size, without the suppression of overlaps."""
    size = contract.preprocessing
    device = next(detector.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector.eval().walk(torch.zeros(1, 3, size.height, size.width, device=device), options)
    return int(counter.get_total_flops()) // 2


def save(
    out: Path,
    detector: Detector,
    choice: DetectorConfig,
    contract: ModelContract,
    epochs: int,
    accuracy: Accuracy,
    options: GraphOptions,
    curve: LearningCurve | None = None,
) -> None:
    """Write weights and facts; `options` are those of the graph that is deployed."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    save_file(state, str(out / WEIGHTS))
    facts = CheckpointFacts(
        contract=contract.model_copy(update={"mask_frame": detector.mask_frame}),
        detector=PluginChoice(name=choice.name, options=choice.options),
        parameters=sum(p.numel() for p in detector.parameters()),
        macs=count_macs(detector, contract, options),
        epochs=epochs,
        accuracy=accuracy,
        curve=curve,
    )
    write_facts(out, facts)


def finish(
    out: Path,
    detector: Detector,
    choice: DetectorConfig,
    epochs: int,
    dataset: Dataset,
    split: str,
    export: ExportConfig,
    curve: Callable[[Detections], LearningCurve | None] | None = None,
) -> Checkpoint:
    """Judge the trained detector on the split in all processes, and write its checkpoint in the first one.

    Args:
        curve: makes the training's curve from the detections on the split; None without a training.
    """
    judged = judge_split(out, detector, dataset, split, export)
    if is_main_process():
        risen = None if curve is None else curve(judged.detections)
        save(out, detector, choice, dataset.facts.contract, epochs, judged.accuracy, graph_options(export), risen)
        discard(out)
    return Checkpoint(out)
