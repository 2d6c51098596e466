"""What the dense detectors, FCOS and RetinaNet, share."""
