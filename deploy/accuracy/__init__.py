"""Accuracy of an engine: COCO's mAP, matches per image, drift between two networks."""
