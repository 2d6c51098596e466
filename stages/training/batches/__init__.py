"""The images and objects of each training step: read, augmented, corrupted, dealt out, and stacked."""
