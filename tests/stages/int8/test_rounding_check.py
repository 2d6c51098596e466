from pathlib import Path

import int8_samples as samples
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from deploy.errors import ConfigError
from deploy.precision.placement import rounded_values
from stages.int8.rounded import rounded_detector


@pytest.mark.parametrize("differing", [0, 1, 3, 4])
def test_one_of_four_images_has_to_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, differing: int) -> None:
    verdicts = ["rounding"] * differing + [None]
    monkeypatch.setattr("stages.int8.rounded._refused", lambda *_: verdicts.pop(0))
    plain = samples.student()
    forms = samples.forms(plain, tmp_path)
    if differing < 4:
        rounded_detector(plain, forms, samples.EXPORT, samples.images(5))
        return
    with pytest.raises(ConfigError, match=r"int8\.finetune: rounding of detector fcos's graph is not computed by its modules"):
        rounded_detector(plain, forms, samples.EXPORT, samples.images(5))


def test_another_rounding_of_weights_is_refused_and_the_tensor_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.int8.forms.NARROW", 60)
    plain = samples.student()
    with pytest.raises(ConfigError, match=r"int8\.finetune: rounding of the tensor \w+ of detector fcos's graph is not computed"):
        rounded_detector(plain, samples.forms(plain, tmp_path), samples.EXPORT, samples.images())


@pytest.mark.parametrize(("share", "refused"), [(1e-4, False), (0.02, True)])
def test_few_numbers_may_differ_by_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, refused: bool) -> None:
    plain = samples.student()
    forms = samples.forms(plain, tmp_path)
    table = forms.table

    def shifted(model: ModelProto, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        found = rounded_values(model, image)
        name = max(table.steps, key=lambda one: found[one].size)
        flat = found[name].reshape(-1).copy()
        flat[: max(1, int(share * flat.size))] += table.steps[name].scale
        return {**found, name: flat.reshape(found[name].shape)}

    monkeypatch.setattr("stages.int8.rounded.rounded_values", shifted)
    if not refused:
        rounded_detector(plain, forms, samples.EXPORT, samples.images())
        return
    with pytest.raises(ConfigError, match="rounding of the tensor"):
        rounded_detector(plain, forms, samples.EXPORT, samples.images())
