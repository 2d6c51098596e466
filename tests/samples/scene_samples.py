"""Ground truth and detections in COCO's form, made up."""

from typing import Any

import numpy as np


def scene(seed: int, num_images: int = 30, *, crowd: bool = True) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of three classes and all sizes, some of them crowds; detections that are near, double, of another class, or of nothing."""
    rng = np.random.default_rng(seed)
    images = [{"id": 3 * i + 1, "width": 300, "height": 300, "file_name": f"{i}.png"} for i in range(num_images)]
    categories = [{"id": 2 * c + 1, "name": f"class {c}"} for c in range(3)]
    objects: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in images:
        for _ in range(rng.integers(0, 6)):
            (x, y), (w, h) = rng.uniform(0, 200, 2), rng.choice([10, 30, 60, 110]) * rng.uniform(0.7, 1.3, 2)
            category = int(rng.choice(3)) * 2 + 1
            identity = {"id": len(objects) + 1, "image_id": image["id"], "category_id": category}
            objects.append({**identity, "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(crowd and rng.random() < 0.1)})
            for _ in range(rng.integers(0, 3)):
                dx, dy, dw, dh = rng.normal(0, 0.1, 4)
                box = [x + dx * w, y + dy * h, w * (1 + dw), h * (1 + dh)]
                other = category if rng.random() < 0.9 else int(rng.choice(3)) * 2 + 1
                found.append({"image_id": image["id"], "category_id": other, "bbox": box, "score": round(float(rng.random()), 2)})
        box = [*rng.uniform(0, 200, 2), *rng.uniform(10, 100, 2)]
        found.append({"image_id": image["id"], "category_id": 1, "bbox": box, "score": round(float(rng.random()), 2)})
    return {"images": images, "annotations": objects, "categories": categories}, found
