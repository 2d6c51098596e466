"""What each step of a training sees: images read, augmented, corrupted, dealt out to processes, stacked."""
