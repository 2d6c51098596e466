"""What detectors with proposals and regions share."""
