"""A run that reuses prepared data does not parse the annotations to know that they are the same."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from places import ROOT

from deploy.machine import known_files
from pipeline.commands.check import data_findings
from pipeline.config import load
from pipeline.store.store import Mode, Store
from stages.config import DataConfig
from stages.datasets.cleaning import images
from stages.datasets.layouts.entries import document
from stages.prepare import prepare


def coco(root: Path) -> DataConfig:
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).mkdir()
        picture = Image.new("RGB", (20, 10), "white")
        picture.putpixel((0, 0), (0, 0, 0))
        picture.save(root / split / "1.png")
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12.0, "iscrowd": 0}
        image = {"id": 1, "file_name": "1.png", "width": 20, "height": 10}
        content: dict[str, Any] = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "dog"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return DataConfig.model_validate({"dataset": "coco", "root": str(root), "preprocessing": {"height": 64, "width": 64}})


def test_reuse_parses_no_annotations_and_a_changed_file_is_prepared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_files, "SETTLED_NS", -(10**12))
    config = coco(tmp_path / "data")
    first = Store(tmp_path / "runs", "one").run(prepare, config)

    parsed: list[Path] = []
    parse = document.parse

    def counted(path: Path, *others: Any, **more: Any) -> Any:
        parsed.append(path)
        return parse(path, *others, **more)

    monkeypatch.setattr(document, "parse", counted)
    again = Store(tmp_path / "runs", "one")
    assert again.run(prepare, config).root == first.root
    assert again.records[0].reused
    assert not parsed

    file = tmp_path / "data" / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace('"area": 12.0', '"area": 13.0'))
    os.utime(file, (time.time() - 50, time.time() - 50))
    third = Store(tmp_path / "runs", "one")
    assert third.run(prepare, config).root != first.root
    assert not third.records[0].reused
    assert parsed


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_files, "SETTLED_NS", -(10**12))
    config = coco(tmp_path / "data")
    (tmp_path / "runs" / ".store").mkdir(parents=True)
    Store(tmp_path / "runs", "one", Mode(dry=True)).run(prepare, config)
    assert list((tmp_path / "runs" / ".store").iterdir()) == []


def test_what_check_found_in_images_is_not_decoded_again_by_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_files, "SETTLED_NS", -(10**12))
    coco(tmp_path / "data")
    settings = ["data.dataset=coco", f"data.root={tmp_path / 'data'}"]
    config = load(ROOT / "pipeline.yaml", settings)
    (tmp_path / "runs" / ".store").mkdir(parents=True)
    findings = data_findings(config, tmp_path / "runs")

    def refuse(path: Path, *others: object) -> object:
        raise AssertionError(f"{path} is decoded again")

    monkeypatch.setattr(images, "_scan", refuse)
    assert data_findings(config, tmp_path / "runs") == findings
    Store(tmp_path / "runs", "one").run(prepare, config.data)
