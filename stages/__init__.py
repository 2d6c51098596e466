"""The stages of the pipeline: artifacts in, one artifact out."""

STAGES = ("prepare", "train_teacher", "train_baseline", "distill", "export", "optimize", "validate", "measure", "parity", "gate", "package")
"""The stages' names, in the order of the flow."""
