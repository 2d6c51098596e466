"""What losses on feature pyramids share."""
