"""Writes a trained network to a file in a different format."""
