"""Everything that runs on the target device, next to the engine; nothing in this package imports torch."""
