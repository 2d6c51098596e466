"""Training a network: data, schedule, loop, teacher, checkpoint."""
