import json
from pathlib import Path

import robust_samples

from stages.config import RobustnessConfig
from stages.measurement.groups import groups_of


def test_regions_of_crowds_are_no_objects(tmp_path: Path) -> None:
    """One object is in the first two images, two are in the third; the fourth has nothing but a crowd."""
    data = robust_samples.dataset(tmp_path / "data", {"val": 0}, num_images=6)
    file = data.annotations("val")
    truth = json.loads(file.read_text())
    truth["annotations"] = [
        {"id": number, "image_id": image, "category_id": 3, "bbox": [0, 0, 8, 8], "area": 64, "iscrowd": int(crowd)}
        for number, (image, crowd) in enumerate([(1, False), (2, False), (2, True), (3, False), (3, False), (4, True)], start=1)
    ]
    file.write_text(json.dumps(truth))
    found = groups_of(RobustnessConfig.model_validate({"groups": {"crowd": {"by": "crowding"}}}), "val", data)
    assert {one.name: set(one.images) for one in found} == {"1 object": {1, 2}, "2 to 5 objects": {3}}
