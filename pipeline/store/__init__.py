"""Finished results, in folders named after the hash of their inputs."""
