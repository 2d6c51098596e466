"""How well an engine detects: COCO's mAP, matches per image, drift between two networks."""
