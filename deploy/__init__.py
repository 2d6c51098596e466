"""What runs where the engine runs; nothing here imports torch."""
