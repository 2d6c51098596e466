"""The stages of the pipeline: artifacts in, one artifact out."""

STAGES = (
    *("prepare", "collect", "train_teacher", "label", "time_steps", "train_baseline", "distill", "finetune_int8", "compare"),
    *("export", "optimize", "validate", "measure", "stress", "assess", "parity", "gate", "package"),
)
"""The stages' names, in the order of the flow."""
