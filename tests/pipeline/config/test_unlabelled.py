"""The keys on images without labels: what does not go together is refused in one line that names the key."""

from pathlib import Path

import pytest

from deploy.errors import ConfigError
from pipeline.config import load
from pipeline.config.derived import instances

SMALL = """\
name: small
data: {dataset: digits, unlabelled: photos}
teacher: {detector: {name: fcos, backbone: resnet10, width: 8}}
student: {detector: {name: fcos, backbone: resnet10, width: 8}}
distill: {losses: [{name: attention}], unlabelled: {}}
targets: [{name: cpu, runtime: ort}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ("data.unlabelled=3", "data.unlabelled: got 3, allowed: a folder, or a list of folders"),
        ("data.unlabelled={a: b}", 'data.unlabelled: got {"a": "b"}, allowed: a folder, or a list of folders'),
        ("data.unlabelled=['']", "data.unlabelled: a folder's name is empty"),
        ("data.unlabelled=[a, a]", "data.unlabelled: a is listed 2 times; list each folder once"),
        ("data.unlabelled=[]", "distill.unlabelled: there are no images for it; set data.unlabelled to a folder of images"),
        ("data.unlabeled=a", "data: digits has no option 'unlabeled' (did you mean unlabelled?)"),
        ("distill.unlabelled=null", "data.unlabelled: nothing learns from these images; add distill.unlabelled: {}"),
        ("distill.unlabelled=true", "distill.unlabelled: got true, allowed: a mapping"),
        ("distill.unlabelled.ratio=-1", "distill.unlabelled.ratio: got -1, allowed: greater than or equal to 0"),
        ("distill.unlabelled.ratio=99", "distill.unlabelled.ratio: got 99, allowed: less than or equal to 16"),
        ("distill.unlabelled.ratio=lots", 'distill.unlabelled.ratio: got "lots", allowed: a valid number'),
        ("distill.unlabelled.features=maybe", 'distill.unlabelled.features: got "maybe", allowed: a valid boolean'),
        ("distill.unlabelled.pseudo=yes", "distill.unlabelled.pseudo: got true, allowed: a mapping"),
        ("distill.unlabelled.pseudo.treshold=0.5", "distill.unlabelled.pseudo.treshold: no such key (did you mean threshold?)"),
        (
            "distill.unlabelled.pseudo.threshold=1.5",
            "distill.unlabelled.pseudo.threshold: got 1.5, allowed: a number above 0 to 1, or auto",
        ),
        ("distill.unlabelled.pseudo.threshold=0", "distill.unlabelled.pseudo.threshold: got 0, allowed: a number above 0 to 1, or auto"),
        ("distill.unlabelled.pseudo.threshold=aut", 'distill.unlabelled.pseudo.threshold: got "aut" (did you mean auto?), allowed'),
        (
            "distill.unlabelled.pseudo.views=mirrored",
            'distill.unlabelled.pseudo.views: got "mirrored" (did you mean mirror?), allowed: auto',
        ),
        (
            "distill.unlabelled.pseudo.views=[zom]",
            "distill.unlabelled.pseudo.views: no view 'zom' (did you mean zoom?); choose from mirror, zoom",
        ),
        ("distill.unlabelled.pseudo.views=[zoom, zoom]", "distill.unlabelled.pseudo.views: zoom is listed 2 times; list each view once"),
        ("distill.unlabelled.pseudo.views=null", "distill.unlabelled.pseudo.views: got null, allowed: auto, or a list of mirror, zoom"),
        ("distill.unlabelled.ratio=.nan", "distill.unlabelled.ratio: got NaN, allowed: a finite number"),
        ("distill.unlabelled.pseudo.weight=.inf", "distill.unlabelled.pseudo.weight: got Infinity, allowed: a finite number"),
        ("distill.unlabeled={}", "distill.unlabeled: no such key (did you mean unlabelled?)"),
        ("distill.unlabelled.classes=person", 'distill.unlabelled.classes: got "person", allowed: a list of names, or a mapping of'),
        ("distill.unlabelled.classes=[]", "distill.unlabelled.classes: got [], allowed: a list of names, or a mapping of"),
        ("distill.unlabelled.classes=[car, car]", "distill.unlabelled.classes: car is named 2 times; name each class once"),
        ("distill.unlabelled.classes={a: 3}", 'distill.unlabelled.classes: got {"a": 3}, allowed: a list of names, or a mapping of'),
        ("distill.unlabelled.images=0", "distill.unlabelled.images: got 0, allowed: greater than or equal to 1"),
        ("distill.unlabelled.pseudo.start=1", "distill.unlabelled.pseudo.start: 1 is the end of the training"),
        ("distill.unlabelled.strong=[{name: flip}]", "distill.unlabelled.strong.0: no 'flip'; choose from color, corrupt"),
        ("distill.unlabelled={refine: 0.5, pseudo: null}", "distill.unlabelled: refine: 0.5 needs pseudo-labels"),
        ("distill.unlabelled={refine: 0.1, pseudo: {start: 0.5}}", "distill.unlabelled: refine: 0.1 is before pseudo.start, 0.5"),
        ("distill.unlabelled={features: false, pseudo: null}", "distill.unlabelled: features is false and pseudo is null"),
        ("distill.unlabelled={only: true, pseudo: null}", "distill.unlabelled: only: true needs pseudo-labels"),
        ("distill.unlabelled={only: true, ratio: 0}", "distill.unlabelled: only: true with ratio: 0 has no images at all"),
        ("distill.unlabelled={only: true, pseudo: {start: 0.2}}", "distill.unlabelled: only: true has nothing to learn before"),
        ("distill.unlabelled={refine: 0.5}|student.train.ema=null", "distill.unlabelled.refine: the averaged student labels"),
        ("distill.unlabelled={refine: 0.5}|student.train.ema=0", "distill.unlabelled.refine: the averaged student labels"),
        (
            "distill.unlabelled={only: true}|distill.losses.0.weight=auto",
            "distill.unlabelled.only: weight: auto (the default) needs labeled",
        ),
        (
            "distill.losses.0.weight=1|distill.unlabelled={only: true}|targets.0.precision=int8|targets.0.int8.finetune=true",
            "targets.0.int8.finetune: it trains on labeled images, of which the student sees none with distill.unlabelled.only",
        ),
        ("teacher.unlabelled={}|teacher.train.ema=null", "teacher: unlabelled needs averaged weights"),
        ("teacher.unlabelled={}|teacher.train.ema=0", "teacher: unlabelled needs averaged weights"),
        ("teacher.unlabelled={}|teacher.weights=w.safetensors", "teacher: weights are loaded, not trained"),
        ("teacher.unlabelled={pseudo: {views: [zoom]}}", "teacher.unlabelled: pseudo.views: the averaged weights label each view"),
        ("teacher.unlabelled.labels=frist", 'teacher.unlabelled.labels: got "frist" (did you mean first?)'),
        ("teacher.unlabelled.refine=0.5", "teacher.unlabelled.refine: no such key; choose from ratio, images, strong, labels, pseudo"),
    ],
)
def test_bad_values_and_what_does_not_go_together_are_refused_in_one_line(file: Path, settings: str, line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(file, settings.split("|"))
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_ratio_of_nothing_is_the_same_as_no_section(file: Path) -> None:
    config = load(file, ["distill.unlabelled.ratio=0"])
    assert not config.uses_unlabelled
    assert config.distill.from_unlabelled is None
    assert load(file).uses_unlabelled
    assert "collect" not in "".join(instances(config))


def test_a_folder_may_be_given_by_itself_or_in_a_list(file: Path) -> None:
    assert load(file).data.unlabelled_folders == ("photos",)
    assert load(file, ["data.unlabelled=[one, two]"]).data.unlabelled_folders == ("one", "two")
    assert load(file, ["data.unlabelled=[one, two]"]).data.labeled == load(file).data.labeled


def test_what_labels_the_images_depends_on_the_rule_alone(file: Path) -> None:
    rules = {
        load(file, settings).distill.unlabelled.rule  # type: ignore[union-attr]
        for settings in ([], ["distill.unlabelled.ratio=2"], ["distill.unlabelled.pseudo={weight: 3, start: 0.2}"])
    }
    assert len(rules) == 1


def test_a_teacher_labels_late_unless_it_is_told_when(file: Path) -> None:
    def start(setting: str) -> float:
        section = load(file, [f"teacher.unlabelled={setting}"]).teacher.unlabelled
        assert section is not None
        return section.pseudo.start

    assert [start(one) for one in ("{}", "{pseudo: {threshold: 0.5}}", "{pseudo: {start: 0.1}}")] == [0.3, 0.3, 0.1]
    assert [start(one) for one in ("{labels: first}", "{labels: first, pseudo: {start: 0.2}}")] == [0.0, 0.2]
