"""A distillation loss is one new file: dropped into the folder, chosen in pipeline.yaml's words, trained; no edit elsewhere."""

import shutil
from pathlib import Path

import pytest
import tiny
from pydantic import ValidationError

from deploy import plugins
from stages.artifacts import Dataset
from stages.training.checkpoint import build_detector
from stages.training.distillation import Distillation, build_losses, loss_factor
from stages.training.loop import Trainer
from stages.training.teacher import Teacher

_HEAD = '''
"""{purpose}"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.losses import Loss, NetworkSide

READS = {reads}
INVARIANT_TO = ()
'''

BOX_MASKED = (
    _HEAD.format(purpose="Features inside the boxes of the targets alone.", reads=("pyramid", "targets"))
    + '''
class BoxMasked(Loss):
    def __init__(self, widths: list[tuple[int, int]]) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(nn.Conv2d(own, other, 1) for own, other in widths)

    def forward(self, student, teacher, targets):
        terms = {}
        for adapter, own, other, stride in zip(self.adapters, student.pyramid, teacher.pyramid, student.strides, strict=True):
            mask = torch.zeros(own.shape[0], 1, *own.shape[-2:], device=own.device)
            for image, target in enumerate(targets):
                for x1, y1, x2, y2 in (target.boxes / stride).round().int().tolist():
                    mask[image, :, y1 : y2 + 1, x1 : x2 + 1] = 1
            terms[f"inside/{stride}"] = ((adapter(own) - other).square() * mask).sum() / mask.sum().clamp(min=1)
        return terms


def build(student: NetworkSide, teacher: NetworkSide, *, gain: Annotated[float, Field(gt=0)] = 1.0) -> Loss:
    """Inside boxes."""
    loss = BoxMasked(list(zip(student.channels, teacher.channels, strict=True)))
    loss.weights = {"inside": gain}
    return loss
'''
)

ON_HEADS = (
    _HEAD.format(purpose="The teacher's class probabilities at every place.", reads=("head",))
    + '''
class OnHeads(Loss):
    def forward(self, student, teacher, targets):
        own, other = student.head["class_logits"], teacher.head["class_logits"]
        errors = [nn.functional.binary_cross_entropy_with_logits(a, b.sigmoid()) for a, b in zip(own, other, strict=True)]
        return {"classes": torch.stack(errors).mean()}


def build(student: NetworkSide, teacher: NetworkSide) -> Loss:
    """Of the raw head outputs."""
    return OnHeads()
'''
)

ACROSS_LEVELS = (
    _HEAD.format(purpose="How the strength of one level relates to that of another.", reads=("pyramid",))
    + '''
class AcrossLevels(Loss):
    def forward(self, student, teacher, targets):
        def strengths(pyramid) -> Tensor:
            powers = torch.stack([level.float().square().mean(dim=(1, 2, 3)) for level in pyramid], dim=1)
            return powers / powers.sum(dim=1, keepdim=True)

        return {"ratio": (strengths(student.pyramid) - strengths(teacher.pyramid)).square().sum()}


def build(student: NetworkSide, teacher: NetworkSide, *, kind: Literal["power"] = "power") -> Loss:
    """Between levels."""
    return AcrossLevels()
'''
)

FILES = {"box_masked": (BOX_MASKED, "inside/8"), "on_heads": (ON_HEADS, "classes"), "across_levels": (ACROSS_LEVELS, "ratio")}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data") / "digits")


@pytest.fixture(autouse=True)
def dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import losses

    folder = tmp_path / "losses"
    shutil.copytree(plugins.folder("stages.losses"), folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (text, _) in FILES.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(losses, "__path__", [str(folder)])
    assert losses.__spec__ is not None
    monkeypatch.setattr(losses.__spec__, "submodule_search_locations", [str(folder)])


@pytest.mark.parametrize("name", FILES)
def test_a_loss_is_one_new_file(name: str, dataset: Dataset, tmp_path: Path) -> None:
    student, teacher = build_detector(tiny.detector(), 10, 0), build_detector(tiny.detector(tiny.TEACHER), 10, 5)
    config = tiny.distillation(losses=[{"name": name, "weight": 2.0}])
    task = Distillation(student, Teacher(teacher), build_losses(config, student, teacher, 0), loss_factor(config, 9), every=1)
    (tmp_path / "run").mkdir()
    Trainer(task, dataset, tiny.schedule(epochs=1), seed=0, device="cpu", folder=tmp_path / "run", label="test").run()
    header = (tmp_path / "run" / "curves.csv").read_text(encoding="utf-8").partition("\n")[0].split(",")
    term = FILES[name][1]
    assert {f"{name}/{term}", f"weighted/{name}/{term}", f"share/{name}/{term.partition('/')[0]}"} <= set(header)


def test_its_options_are_checked_as_any_others() -> None:
    assert tiny.distillation(losses=[{"name": "box_masked"}]).losses[0].options == {"gain": 1.0}
    with pytest.raises(ValidationError, match=r"box_masked: gain: Input should be greater than 0"):
        tiny.distillation(losses=[{"name": "box_masked", "gain": 0}])
