"""The stages of the pipeline: artifacts in, one artifact out."""

STAGES = ("prepare", "train_teacher", "train_baseline", "distill", "export", "optimize", "validate", "parity", "gate", "package")
"""In the order of the flow."""
