"""From a trained network to a file of another format."""
