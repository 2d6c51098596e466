"""A student that is trained for int8: batch norms folded, the quantizer's rounding in torch, the task, both int8 graphs judged."""
