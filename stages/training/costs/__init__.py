"""What a training step costs: time and memory, with a teacher and without."""
