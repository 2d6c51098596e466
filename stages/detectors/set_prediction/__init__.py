"""What detectors that predict a set of boxes share."""
