"""Learning from images without labels: their views, detections as targets, who labels them, and what the two tasks add to a step."""
