"""Weights as MMDetection's model zoo has them, and as its users save them."""
