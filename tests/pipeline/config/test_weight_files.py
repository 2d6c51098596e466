"""Files of weights that a configuration names: what is said of those that are missing or are something else."""

import hashlib
import json
from pathlib import Path

import pytest
from places import ROOT

from pipeline import cli
from pipeline.config import load
from pipeline.config.weight_files import problems, zoo_address

PAPER = sorted(path for path in (ROOT / "examples" / "paper").glob("*.yaml") if path.stem not in ("protocol", "two_stage"))
ZOO = "https://download.openmmlab.com/mmdetection/v2.0"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth", "retinanet/retinanet_x101_64x4d_fpn_1x_coco"),
        ("fsaf_x101_64x4d_fpn_1x_coco-e3f6e6fd.pth", "fsaf/fsaf_x101_64x4d_fpn_1x_coco"),
        ("gfl_r50_fpn_1x_coco_20200629_121244-25944287.pth", "gfl/gfl_r50_fpn_1x_coco"),
        ("dynamic_rcnn_r50_fpn_1x-62a3f276.pth", "dynamic_rcnn/dynamic_rcnn_r50_fpn_1x"),
        ("atss_r101_fpn_1x_20200825-dfcadd6f.pth", "atss/atss_r101_fpn_1x_coco"),
        (
            "cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5_1x_coco-e75f90c8.pth",
            "dcn/cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5_1x_coco",
        ),
        ("cascade_rcnn_r50_fpn_20e_coco_bbox_mAP-0.41_20200504_175131-e9872a90.pth", "cascade_rcnn/cascade_rcnn_r50_fpn_20e_coco"),
        (
            "mask_rcnn_r50_fpn_2x_coco_bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40.pth",
            "mask_rcnn/mask_rcnn_r50_fpn_2x_coco",
        ),
        ("grid_rcnn_r50_fpn_gn-head_2x_coco_20200130-6cca8223.pth", "grid_rcnn/grid_rcnn_r50_fpn_gn-head_2x_coco"),
        ("yolox_s_8x8_300e_coco_20211121_095711-4592a793.pth", "yolox/yolox_s_8x8_300e_coco"),
    ],
)
def test_the_zoos_addresses(name: str, place: str) -> None:
    assert zoo_address(name) == f"{ZOO}/{place}/{name}"


def test_a_plus_is_escaped() -> None:
    name = "reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck+head_2x_coco_20200329-f87da1ea.pth"
    assert zoo_address(name) == f"{ZOO}/reppoints/{name.removesuffix('_20200329-f87da1ea.pth')}/{name}".replace("+", "%2B")


@pytest.mark.parametrize("name", ["mine.pth", "epoch_12.pth", "yolo-0123abcd.pth", "retinanet_r50.safetensors"])
def test_files_of_others_are_not_guessed(name: str) -> None:
    assert zoo_address(name) is None


def said(text: str, folder: Path) -> list[str]:
    file = folder / "pipeline.yaml"
    file.write_text(f"extends: {ROOT / 'examples' / 'small.yaml'}\n{text}", encoding="utf-8")
    return list(problems(load(file, []), file.read_text(encoding="utf-8")))


def test_a_file_that_is_there_is_not_mentioned(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"1")
    assert said(f"teacher: {{detector: {{weights: {tmp_path / 'mine.pth'}}}}}", tmp_path) == []


def test_a_missing_file_is_named_with_its_key(tmp_path: Path) -> None:
    assert said("student: {detector: {weights: mine.pth}}", tmp_path) == [
        "student.detector.weights: mine.pth does not exist; give a file that exists"
    ]
    assert said("teacher: {weights: mine.safetensors}", tmp_path)[0].startswith("teacher.weights: mine.safetensors does not exist")


@pytest.mark.parametrize(
    "text",
    [
        "teacher:\n  detector:\n    weights: mine.pth  # https://example.org/files/17\n",
        "teacher:\n  detector:\n    # from https://example.org/files/17\n    weights: mine.pth\n",
    ],
)
def test_an_address_in_a_comment_is_given(tmp_path: Path, text: str) -> None:
    assert said(text, tmp_path) == [
        "teacher.detector.weights: mine.pth does not exist; download it: curl -L -o mine.pth https://example.org/files/17"
    ]


def test_an_address_in_a_file_that_is_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said("teacher:\n  detector:\n    weights: mine.pth  # https://example.org/files/17\n", tmp_path)
    (tmp_path / "own.yaml").write_text("extends: pipeline.yaml\nseed: 1\n", encoding="utf-8")
    assert cli.main(["check", str(tmp_path / "own.yaml")]) != 0
    assert "mine.pth does not exist; download it: curl -L -o mine.pth https://example.org/files/17\n" in capsys.readouterr().out


def test_content_that_is_not_what_the_name_says(tmp_path: Path) -> None:
    good = hashlib.sha256(b"good").hexdigest()[:8]
    file = tmp_path / f"fsaf_r50_fpn_1x_coco-{good}.pth"
    file.write_bytes(b"good")
    text = f"teacher: {{detector: {{weights: {file}}}}}"
    assert said(text, tmp_path) == []
    file.write_bytes(b"cut")
    found = hashlib.sha256(b"cut").hexdigest()[:8]
    line = said(text, tmp_path)[0]
    assert f"the sha256 of {file} begins with {found}, its name says {good}; download it: curl -L -o {file.name} {ZOO}/fsaf/" in line


@pytest.mark.parametrize("file", PAPER, ids=[path.stem for path in PAPER])
def test_the_papers_pairs_are_valid_and_say_what_to_download(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(file), "--json"]) in (3, 4)
    found = json.loads(capsys.readouterr().out)
    assert found["networks"] is None
    assert len(found["weights"]) == 1
    assert "does not exist; download it: curl -L -o " in found["weights"][0]
    assert "(sha256 " in found["weights"][0]
    name = Path(load(file, []).teacher.detector.options["weights"]).name
    address = zoo_address(name)
    assert address is not None
    assert address in found["weights"][0]
    assert any(address in other.read_text(encoding="utf-8") for other in file.parent.glob("*.yaml"))


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.pth").write_bytes(b"1")
    (tmp_path / "pipeline.yaml").write_text(f"extends: {ROOT / 'examples' / 'small.yaml'}\n", encoding="utf-8")
    named = [f"{key}=~/mine.pth" for key in ("teacher.weights", "student.weights", "student.detector.backbone_weights")]
    config = load(tmp_path / "pipeline.yaml", named)
    assert config.teacher.weights == config.student.weights == str(tmp_path / "mine.pth")
    assert config.student.detector.options["backbone_weights"] == str(tmp_path / "mine.pth")
    assert list(problems(config, "")) == []
    other = load(tmp_path / "pipeline.yaml", ["teacher.weights=~nobody-of-this-name/mine.pth"])
    assert [*problems(other, "")] == ["teacher.weights: ~nobody-of-this-name/mine.pth does not exist; give a file that exists"]
