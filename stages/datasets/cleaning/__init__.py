"""Annotations checked, mended and left out, with reasons."""
