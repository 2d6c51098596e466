import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import int8_samples as samples
import pytest
import tiny
from safetensors.torch import load_file

from deploy.comparison.interval import MIN_IMAGES, Effect
from deploy.engines import int8_training
from deploy.engines.int8_training import INT8
from stages.artifacts import Checkpoint, Dataset, Engine
from stages.config import DetectorConfig, FinetuneConfig, TargetConfig
from stages.export import export
from stages.finetune_int8 import finetune_int8, is_better
from stages.int8.rounded import rounded_detector
from stages.optimize import optimize
from stages.training.checkpoint import finish, load_detector
from stages.training.saved_state import SavedState


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data"), train_images=8)


def network(folder: Path, dataset: Dataset, options: dict[str, Any], seed: int) -> Checkpoint:
    folder.mkdir()
    detector = samples.student(options, seed)
    return finish(folder, detector, DetectorConfig.model_validate(options), 1, dataset, "val", samples.EXPORT)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> tuple[Checkpoint, Checkpoint]:
    """A student and its teacher."""
    folder = tmp_path_factory.mktemp("networks")
    return network(folder / "student", dataset, samples.FCOS, 0), network(folder / "teacher", dataset, {**samples.FCOS, "width": 16}, 1)


def finetuned(out: Path, config: FinetuneConfig, dataset: Dataset, pair: tuple[Checkpoint, Checkpoint]) -> Checkpoint:
    out.mkdir(exist_ok=True)
    return finetune_int8(out, config, tiny.distillation(), 3, "cpu", "val", dataset, *pair, samples.EXPORT)


TRAINED = samples.config(train=tiny.schedule(epochs=2, ema=None, weight_decay=0.0, learning_rate=1e-3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset, pair: tuple[Checkpoint, Checkpoint]) -> Checkpoint:
    """Trained over two epochs and kept."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stages.finetune_int8.is_better", lambda _: True)
        return finetuned(tmp_path_factory.mktemp("whole") / "out", TRAINED, dataset, pair)


@pytest.mark.parametrize("runtime", ["ort", "openvino"])
def test_folded_and_without_a_step_the_trained_graph_is_post_training_int8_bit_for_bit(tmp_path: Path, runtime: str) -> None:
    plain = samples.student()
    forms = samples.forms(plain, tmp_path, samples.config(runtime))
    detector, _ = rounded_detector(copy.deepcopy(plain), forms, samples.EXPORT, samples.images())
    assert forms.trained(detector).SerializeToString() == forms.post_training.SerializeToString()


@pytest.mark.parametrize("none", [{"epochs": 0}, {"weight": 0.0}], ids=["epochs", "weight"])
def test_zero_steps_and_weight_zero_give_the_post_training_engine_bit_for_bit(
    tmp_path: Path, dataset: Dataset, pair: tuple[Checkpoint, Checkpoint], none: dict[str, Any]
) -> None:
    options = {"name": "cpu", "runtime": "ort", "precision": "int8", "calibration_images": 4}
    plain = TargetConfig.model_validate(options)
    asked = TargetConfig.model_validate({**options, "int8": {"finetune": True, **none}})
    how = asked.finetuning(tiny.schedule())
    assert how is not None
    tuned = finetuned(tmp_path / "tuned", how, dataset, pair)
    found = int8_training.read(tuned.root)
    assert found is not None
    assert (found.kept, found.trained_map, found.ranges) == (False, None, {})
    engines = []
    for name, target, one in (("plain", plain, pair[0]), ("asked", asked, tuned)):
        folders = [tmp_path / f"{kind}-{name}" for kind in ("model", "engine")]
        for folder in folders:
            folder.mkdir()
        engines.append(optimize(folders[1], target, export(folders[0], samples.EXPORT, one), dataset))
    assert engines[0].file("engine.onnx").read_bytes() == engines[1].file("engine.onnx").read_bytes()


def stop_after(epochs: int) -> Callable[[SavedState], None]:
    save, left = SavedState.save, [epochs]

    def stopping(own: SavedState) -> None:
        save(own)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return stopping


def test_killed_and_resumed_equals_undisturbed(
    tmp_path: Path, dataset: Dataset, pair: tuple[Checkpoint, Checkpoint], whole: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.finetune_int8.is_better", lambda _: True)
    with monkeypatch.context() as killed:
        killed.setattr(SavedState, "save", stop_after(1))
        with pytest.raises(KeyboardInterrupt):
            finetuned(tmp_path / "halved", TRAINED, dataset, pair)
    halved = finetuned(tmp_path / "halved", TRAINED, dataset, pair)
    for name in (INT8, "weights.safetensors", "detections.json", "other_int8.json"):
        assert (whole.root / name).read_bytes() == (halved.root / name).read_bytes(), name
    assert not list(halved.root.glob("resume*"))
    before, after = (load_file(str(one.file("weights.safetensors"))) for one in (pair[0], whole))
    assert any(not before[name].equal(after[name]) for name in before)


def operators(engine: Engine) -> dict[str, int]:
    """Without the dequantization of constants: biases that start alike are one constant until they are trained."""
    assert engine.facts.cost is not None
    return {kind: count for kind, count in engine.facts.cost.operators.items() if kind != "DequantizeLinear"}


def test_what_is_kept_carries_its_ranges_and_is_built_without_images(
    tmp_path: Path, dataset: Dataset, pair: tuple[Checkpoint, Checkpoint], whole: Checkpoint
) -> None:
    found = int8_training.read(whole.root)
    assert found is not None
    assert found.kept
    assert found.fits(TRAINED.recipe)
    assert found.trained_map is not None
    for folder in ("model", "engine", "plain-model", "plain-engine"):
        (tmp_path / folder).mkdir()
    model = export(tmp_path / "model", samples.EXPORT, whole)
    target = TargetConfig.model_validate({"name": "cpu", "runtime": "ort", "precision": "int8", "int8": {"finetune": True}})
    engine = optimize(tmp_path / "engine", target, model, None)
    assert engine.facts.int8 == found.figures
    plain = optimize(tmp_path / "plain-engine", target, export(tmp_path / "plain-model", samples.EXPORT, pair[0]), dataset)
    assert engine.facts.proof == plain.facts.proof
    assert engine.facts.proof["convolutions_int8"] > 10
    assert operators(engine) == operators(plain)
    assert engine.file("engine.onnx").read_bytes() != plain.file("engine.onnx").read_bytes()


def test_what_is_not_better_is_not_kept(
    tmp_path: Path, dataset: Dataset, pair: tuple[Checkpoint, Checkpoint], whole: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.finetune_int8._trained", lambda *_: load_detector(whole))
    monkeypatch.setattr("stages.finetune_int8.is_better", lambda _: False)
    tuned = finetuned(tmp_path / "tuned", TRAINED, dataset, pair)
    found = int8_training.read(tuned.root)
    assert found is not None
    assert (found.kept, found.ranges) == (False, {})
    assert "not kept" in str(found)
    before, after = (load_file(str(one.file("weights.safetensors"))) for one in (pair[0], tuned))
    assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.slow
def test_a_mobile_backbone_is_trained_and_judged(tmp_path: Path, dataset: Dataset, pair: tuple[Checkpoint, Checkpoint]) -> None:
    mobile = {key: value for key, value in samples.FCOS.items() if key != "width"} | {"backbone": "mobilenet_v3_small"}
    tuned = finetuned(tmp_path / "tuned", samples.config(), dataset, (network(tmp_path / "mobile", dataset, mobile, 0), pair[1]))
    found = int8_training.read(tuned.root)
    assert found is not None
    assert found.trained_map is not None


def test_few_images_decide_nothing(whole: Checkpoint) -> None:
    found = int8_training.read(whole.root)
    assert found is not None
    assert found.num_images < MIN_IMAGES
    assert (found.low, found.high) == (None, None)
    assert found.gain == (found.trained_map or 0) - (found.post_training_map or 0)
    refused = found.model_copy(update={"kept": False})
    assert str(refused).endswith("points); not kept, because too few images have objects to tell")


@pytest.mark.parametrize(("low", "kept"), [(0.001, True), (0.0, False), (-0.001, False)])
def test_the_whole_interval_must_be_above_zero(low: float, kept: bool) -> None:
    assert is_better(Effect(change=0.01, low=low, high=0.02, num=100)) == kept
    assert not is_better(None)
