"""What dense detectors share: FCOS, RetinaNet."""
